"""Messages name options of the command that was typed, and commands that can be typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clipdistill import cli
from clipdistill.core.hints import fits, option_names, reworded
from clipdistill.verbs import VERBS, Verb
from messages import SOURCES, module_of, parsed, reachable

NEVER_SHOWN = {
    # Verbs that use the code of others: what these say of an option is about one that was given,
    # and they do not give it.
    "demo": {"core/serving.py"},
    "evaluate": {"models/recognizer.py"},
    "quantize": {"distillation/fine_tuning.py", "distillation/options.py"},
    "run": {
        "collect/download.py",
        "core/ray_actors.py",
        "deploy/browser/folder.py",
        "deploy/export.py",
        "distillation/distill.py",
        "distillation/embed.py",
        "distillation/fine_tuning.py",
        "measure/benchmark.py",
        "models/recognizer.py",
    },
}
ELSEWHERE = ("show/pages", "show/checks", "core/charts", "core/packages")
"""Commands in a report, charts, and what `doctor` lists."""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Set --output-dim or --x-y. Fine.", "Set --output_dim or --x-y. Fine."),
        ("It failed. Add --unknown. Try again.", "It failed. Try again."),
        ("It failed (--unknown helps).", "It failed."),
        ("It failed; --unknown helps.", "It failed."),
        ("It failed; --sparse does not help.", "It failed; --use_asp does not help."),
        ("It failed. Run `clipdistill embed --views 3`.",) * 2,
        ("No labels: clipdistill predict a.onnx IMAGE --text TEXT",) * 2,
        ("photos/a--b.png: damaged. Delete x/--c.png.",) * 2,
        ("One.\nTwo. Add --unknown.\n  three", "One.\nTwo.\n  three"),
        ("  clipdistill demo a.onnx --camera 0",) * 2,
        ("TensorRT 10: trtexec --onnx=a --skipInference",) * 2,
        ("", ""),
    ],
)
def test_rewording(before: str, after: str) -> None:
    renamed = {"--sparse": "--use_asp"}
    assert reworded(before, {"--output_dim", "--use_asp"}, renamed=renamed) == after


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_no_message_of_a_verb_names_an_option_that_it_does_not_have(verb: Verb) -> None:
    options = option_names(verb.function()) | cli.EVERYWHERE
    wrong = {}
    for path in reachable(module_of(verb)):
        name = path.relative_to(SOURCES).as_posix()
        if name.startswith(ELSEWHERE) or name in NEVER_SHOWN.get(verb.name, ()):
            continue
        if verb.name == "quickstart" and not name.startswith("pipeline/quickstart"):
            continue  # what it gives to `run` is right
        for text in parsed(path)[0]:
            shown = reworded(text, options, dict(verb.words), dict(verb.renamed))
            if not fits(shown, options):
                wrong[name] = shown
    assert wrong == {}


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=lambda path: path.stem)
def test_every_command_in_a_message_has_the_options_that_it_names(path: Path) -> None:
    for text in parsed(path)[0]:
        for command in re.findall(r"(?:`|: )clipdistill (?!can )([a-z][^`\n]*)", text):
            verb = next((v for v in VERBS if f"{command} ".startswith(f"{v.name} ")), None)
            assert verb is not None, command
            known = option_names(verb.function()) | cli.EVERYWHERE
            assert set(re.findall(r"--[a-z][a-z0-9-]*", command)) <= known, command


def test_offline_run_advises_its_own_option(tmp_path: Path, pictures, capsys, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    pictures(tmp_path / "photos", 4)
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    words = ["run", str(tmp_path / "prompts.txt"), str(tmp_path / "out"), "--device", "cpu"]
    code = cli.main([*words, "--images", str(tmp_path / "photos")])
    err = capsys.readouterr().err
    assert code == 6
    assert "use --teacher local-dir:FOLDER" in err
    assert "--model-name" not in err
    assert "--pretrained" not in err
