"""Bad input is one sentence and status 2."""

import re
from pathlib import Path

import pytest

from tests.cli.calls import BLOCKS, Cli

BAD = {
    "no kind": ("explain bert", r"'bert' names no model: expected module:callable, timm:NAME"),
    "no name": ("explain timm:", r"'timm:' names no model"),
    "no module": ("explain nowhere:f", r"no model nowhere:f: 'nowhere' cannot be imported"),
    "no attribute": ("explain own_models:f", r"there is no 'f' in own_models"),
    "no callable": ("explain own_models:value", r"of type int is not callable"),
    "no model": ("explain own_models:number", r"returned \(int\): expected an nn\.Module"),
    "no inputs": ("explain own_models:strange", r"returned \(Linear, int\): expected"),
    "inputs unknown": ("explain own_models:alone", r"give --input SHAPE for each"),
    "callable fails": ("explain own_models:failing", r"failing\(\) failed with KeyError: "),
    "wrong setting": ("explain own_models:alone --set depth=3", r"alone\(depth=3\) failed with T"),
    "setting": ("explain own_models:alone --set depth", r"--set 'depth': expected NAME=VALUE"),
    "set a model": ("explain own_models:Zoo.linear --set a=3", r"is a model already.*no --set"),
    "timm name": ("explain timm:vit_tiny_patch", r"no model 'vit_tiny_patch': did you mean vit"),
    "hf name": ("explain hf:brt", r"transformers has no model 'brt'.*nothing is downloaded"),
    "hf inputs": ("explain hf:wav2vec2", r"takes 'input_values'.*give --input input_values=SHAPE"),
    "shape": (f"explain {BLOCKS} --input 2,24", r"--input '2,24' is no shape: expected"),
    "zero": (f"explain {BLOCKS} --input 0x24", r"--input '0x24' is no shape"),
    "dtype": (f"explain {BLOCKS} --input 2x4:flot", r"torch has no dtype 'flot'"),
    "quantised": (f"explain {BLOCKS} --input 2x24x24:qint8", r"2x24x24:qint8: torch makes no such"),
    "float8": (
        f"explain {BLOCKS} --input 2x4:float8_e4m3fn",
        r"float8_e4m3fn: torch makes no such",
    ),
    "too large": (f"explain {BLOCKS} --input 9{'0' * 9}x9{'0' * 9}", r"torch makes no such tensor"),
    "twice": (f"explain {BLOCKS} --input x=2x4 --input x=2x4", r"--input x is given twice"),
    "misfit": (f"explain {BLOCKS} --input 2x24x9", r"does not run on 2x24x9:float32: RuntimeError"),
    "weights": (f"explain {BLOCKS} --input 2x24x24 --weights no.pt", r"no\.pt holds no state dict"),
    "option": (f"explain {BLOCKS} --ratio 2", r"ratio=2 is not allowed: expected a keep ratio"),
    "option type": (f"explain {BLOCKS} --r many", r"r='many' is not allowed"),
    "schedule": (
        f"explain {BLOCKS} --set depth=2 --input 2x24x24 --schedule 0.9",
        r"has 1 values, but 2 blocks",
    ),
    "two amounts": (f"explain {BLOCKS} --r 2 --ratio 0.9", r"give at most one of ratio, r"),
    "suffix": (f"export {BLOCKS} --to onnx -o a.pt2", r"an ONNX model ends in \.onnx: a\.pt2"),
    "no suffix": (f"export {BLOCKS} --to pt2 -o a", r"an AOTInductor package ends in \.pt2: a$"),
    "folder": (f"export {BLOCKS} --to ep -o no/a.pt2", r"there is no folder no to write a\.pt2"),
    "page": (f"explain {BLOCKS} --html no/a.html", r"html='no/a\.html': there is no folder no"),
    "batch of 1": (
        f"export {BLOCKS} --input 1x24x24 --to ep --dynamic-batch",
        r"--dynamic-batch needs inputs whose first dimension is one batch of 2.*1x24x24:float32",
    ),
    "fixed batch": (
        "export own_models:fixed --to ep --dynamic-batch",
        r"code fixes the batch at 2: export it without --dynamic-batch",
    ),
    "strict": (
        "export own_models:with_tensor --to ep --strict",
        r"runs dense: no attention was found",
    ),
    "once more": (
        "export own_models:with_tensor --to pt2 -o .pt2",
        r"package ends in \.pt2: \.pt2",
    ),
}


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_status_2(name: str, cli: Cli, tmp_path: Path) -> None:
    words, message = BAD[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        status, out, err = cli(*words.split())
    assert (status, out) == (2, "")
    assert err.startswith("python -m pitome_fx: error: ") and err.count("\n") == 1
    assert re.search(message, err), err
    assert not list(tmp_path.glob("*.pt2")), "nothing was written"


@pytest.mark.usefixtures("own")
def test_a_model_that_cannot_be_traced_ends_in_one_sentence(cli: Cli) -> None:
    status, _, err = cli("export", "own_models:untraceable", "--to", "ep")
    # torch prints the graph as far as it got before it gives up.
    last = err.splitlines()[-1]
    assert status == 2
    assert last.startswith("python -m pitome_fx: error: torch.export cannot trace the model: ")
    assert "data-dependent" in last


def test_argparse_errors_have_status_2_too(cli: Cli) -> None:
    for words in (["export", BLOCKS], ["export", BLOCKS, "--to", "tflite"], ["fly"], []):
        with pytest.raises(SystemExit) as ended:
            cli(*words)
        assert ended.value.code == 2


@pytest.mark.usefixtures("own")
def test_traceback_shows_where_an_error_comes_from(cli: Cli) -> None:
    _, _, err = cli("explain", "own_models:failing", "--traceback")
    assert "own_models.py" in err and "KeyError" in err
