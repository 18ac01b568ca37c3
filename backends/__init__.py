"""Graph → callable: the Dynamo entry point and the lowerings.

dynamo      what ``torch.compile(model, backend="pitome")`` calls
lowering    Inductor, and any other registered Dynamo backend
"""
