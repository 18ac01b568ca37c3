"""Command lines that several tests run, and the models they name."""

from collections.abc import Callable
from pathlib import Path

from pitome_fx.cli import models
from pitome_fx.cli.shapes import InputSpec

Cli = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = "tests.support.blocks:Transformer"
SMALL = [BLOCKS, "--set", "depth=1", "--input", "2x24x24"]
DEEPER = [BLOCKS, "--set", "depth=2", "--input", "2x24x24"]
TINY_BERT = ["num_hidden_layers=1", "hidden_size=24", "num_attention_heads=2", "vocab_size=50"]

OWN_MODELS = """
import torch
from torch import nn
from pitome_fx import register
from pitome_fx.algorithms import ALGORITHMS

class Zoo:
    linear = nn.Linear(4, 3)

def alone(width=4): return nn.Linear(width, 3)
def with_tensor(): return nn.Linear(4, 3), torch.ones(2, 4)
def with_args(): return nn.Linear(4, 3), [torch.ones(2, 4)]
def with_kwargs(): return nn.Linear(4, 3), (), {"input": torch.ones(2, 4)}
def number(): return 3
def single(): return torch.ones(2, 3)
def strange(): return nn.Linear(4, 3), 7
class Fixed(nn.Module):
    def forward(self, x): return x.reshape(2, -1)

class Output(nn.Module):
    def __init__(self):
        super().__init__()
        from tests.support.models import bert
        self.bert = bert().model

    def forward(self, x): return self.bert(x)

def output(): return Output(), torch.ones(2, 8, dtype=torch.long)
class Untraceable(nn.Module):
    def forward(self, x): return x + 1 if x.sum() > 0 else x

def untraceable(): return Untraceable(), torch.ones(2, 3)
def fixed(): return Fixed(), torch.ones(2, 3, 4)
def failing(): raise KeyError("a key\\nand more")
value = 7

if "mine" not in ALGORITHMS:
    register("mine")(ALGORITHMS["pitome"].match)
"""


def small() -> models.Call:
    """The model and inputs of the command line ``SMALL``."""
    return models.load(models.find(BLOCKS), {"depth": 1}, [InputSpec((2, 24, 24))])
