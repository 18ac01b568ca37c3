"""Graph → callable: the Dynamo entry point and the lowerings.

dynamo      what ``torch.compile(model, backend="pitome")`` calls
verdict     what is said of a function of several graphs
lowering    Inductor, and any other registered Dynamo backend
openvino    OpenVINO's Dynamo backend
tensorrt    Torch-TensorRT, for Dynamo graphs and for exported programs
"""
