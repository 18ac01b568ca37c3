"""Where the laws are tested: on the CPU, or where ``PITOME_TEST_DEVICE`` says.

Models and inputs are moved there, rather than made there by default: what forgets to say where it
computes must meet tensors of another device.
"""

import os

import torch

DEVICE = torch.device(os.environ.get("PITOME_TEST_DEVICE", "cpu"))
