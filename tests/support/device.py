"""Where the tests compute: on the CPU, or where ``PITOME_TEST_DEVICE`` says."""

import os

import torch

DEVICE = torch.device(os.environ.get("PITOME_TEST_DEVICE", "cpu"))
