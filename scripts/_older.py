"""What the older scripts share: their arguments, how they run, and the words of their messages.

A script lists its arguments, those that several scripts have by their names here, and calls `run`
with a function that receives the parsed ones.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdistill.cli import run_script
from clipdistill.core.hints import reworded


@dataclass(frozen=True)
class Argument:
    """One argument of a script.

    Attributes:
        names: a name without dashes for a positional argument, else the option's.
        help: what it is for.
        default: shown in the help unless it is None or False; `help` then says what happens.
        settings: of argparse's `add_argument`.
    """

    names: tuple[str, ...]
    help: str
    default: Any
    settings: Mapping[str, Any]

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add it to a parser."""
        settings = dict(self.settings)
        text = self.help.replace("%", "%%")
        if self.names[0].startswith("-"):
            settings["default"] = self.default
            if self.default is not None and self.default is not False:
                text += " (default: %(default)s)"
        parser.add_argument(*self.names, help=text, **settings)


def argument(*names: str, help: str, default: Any = None, **settings: Any) -> Argument:
    """An argument; `settings` are those of argparse's `add_argument`."""
    return Argument(names, help, default, settings)


def flag(name: str, help: str) -> Argument:
    """An option without a value."""
    return argument(name, help=help, default=False, action="store_true")


DEVICE = argument(
    "--device", default="auto", help="where torch runs: auto, cpu, cuda, cuda:1, mps ..."
)
BATCH_SIZE = argument("--batch_size", type=int, default=64, help="images per step")
DECODERS = argument(
    "--num_workers", type=int, help="threads that decode images (default: one per processor)"
)
CONNECTIONS = argument(
    "--max_workers", type=int, default=16, help="requests that are sent at the same time"
)
TEACHER = (
    argument(
        "--model_name",
        default="ViT-B-32",
        help="the teacher: open_clip's name, hf-hub:ORG/REPO or local-dir:FOLDER",
    ),
    argument(
        "--pretrained",
        default="laion2b_s34b_b79k",
        help="open_clip's tag of its weights, or a file; hf-hub: and local-dir: need none",
    ),
)
STUDENT = (
    argument("model_name", help="timm's name of the student, such as resnet18"),
    argument("checkpoint_path", type=Path, help="its checkpoint.pth"),
)
TEXT = argument(
    "text_embeddings_path", type=Path, help="text embeddings, one row per prompt (.npy)"
)
TEXT_PROMPTS = argument(
    "--text_prompts",
    type=Path,
    help="file of the same prompts, one per line: the labels (default: those beside the text "
    "embeddings, else numbers)",
)
CHECKED = (
    argument(
        "--image_size",
        type=int,
        help="side of the student's input in pixels; must be the checkpoint's (default: the one "
        "that the checkpoint records, else 224)",
    ),
    argument(
        "--output_dim",
        type=int,
        help="length of the student's embedding; must be the checkpoint's (default: found there)",
    ),
    flag("--use_asp", "the student is 2:4 sparse; must be true of the checkpoint"),
    flag("--use_qat", "the student is INT8; must be true of the checkpoint"),
)
"""What a script is given of a student and what is compared with its checkpoint."""


def check_student(args: argparse.Namespace) -> None:
    """Check that the arguments `STUDENT` and `CHECKED` are true of the checkpoint.

    Raises:
        MismatchError: one of them is not.
    """
    from clipdistill.models.student import check_flags

    check_flags(
        args.checkpoint_path,
        use_asp=args.use_asp,
        use_qat=args.use_qat,
        arch=args.model_name,
        image_size=args.image_size,
        output_dim=args.output_dim,
    )


def run(
    doc: str,
    arguments: Sequence[Argument],
    action: Callable[[argparse.Namespace], Any],
    words: Mapping[str, str] = {},
) -> int:
    """Parse the command line and run a script; returns the exit code.

    Args:
        doc: its docstring, which --help shows.
        arguments: in the order of the help.
        action: receives the parsed arguments and returns a verb's result.
        words: as in `reworded`.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for one in arguments:
        one.add_to(parser)
    args = parser.parse_args()
    options = {name for one in arguments for name in one.names if name.startswith("--")}
    return run_script(lambda: action(args), lambda text: reworded(text, options, words, RENAMED))


RENAMED = {
    "--sparse": "--use_asp",
    "--qat": "--use_qat",
    "--camera": "--camera_device",
    "--prompts": "--text_prompts",
    "--verify-tls": "--verify",
}
"""Options of `clipdistill` that have another name here, beyond `_` for `-`."""
