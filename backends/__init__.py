"""Graph → callable: the Dynamo entry point and the lowerings.

dynamo      what ``torch.compile(model, backend="pitome")`` calls
verdict     what is said of a function of several graphs
lower       calls the lowering that the options name
lowering    what a lowering is; one file each:
inductor      the default
eager         the graph as it is
openvino      OpenVINO's Dynamo backend
tensorrt      Torch-TensorRT, for Dynamo graphs and for exported programs
registered    any other registered Dynamo backend
regional      compiles by regions, where these are alike
kinds         compiled kinds of regions
calls         a program as a list of calls of these
caching       what compile caches are told
fallback    the first run of a lowered graph, and what runs if it fails
guarding    compiles anew where merging is switched off, or on again
failed      the files that warnings name, which show their errors again
reproducer    what is in them
rebuilding    the graph and its inputs as Python source
plugins       what of a user's own it must import
"""

# Registration happens on import.
from pitome_fx.backends import eager, inductor, openvino, tensorrt  # noqa: F401
