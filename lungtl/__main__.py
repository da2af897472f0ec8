"""`lungtl COMMAND ...`: the same as `python -m lungtl.COMMAND ...`."""

from __future__ import annotations

import runpy
import sys

from lungtl.settings.version import VERSION

COMMANDS = {
    "doctor": "check packages, weights, device and data",
    "download": "download LIDC-IDRI scans",
    "prepare": "read a dataset's scans and labels into a store",
    "train": "train and evaluate one model, or sweep over many settings (-m)",
    "evaluate": "score a trained model on any dataset",
    "predict": "compute the malignancy probability of every CT series in a folder",
    "export": "write a trained network as one file that runs without lungtl (ONNX, torch.export)",
    "report": "compare the runs of a sweep on one page",
    "crossval": "train and test every fold, and pool the test predictions",
    "ui": "open MLflow's web interface",
    "register": "add a run's model to MLflow's model registry",
    "reproduce": "train an earlier run again and compare the metrics",
    "sync": "send MLflow what it missed while it was unreachable",
    "backbones": "list the backbones and their weights",
    "cache": "show or remove cached features",
    "leak_demo": "show how much a split that is not by patient overstates the results",
}
"""Name -> what it does, in the order in which one meets them."""


def main() -> None:
    """Run the command that the first argument names."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(help_text())
    elif name == "--version":
        print(f"lungtl {VERSION}")
    elif name in COMMANDS:
        sys.argv = [f"lungtl {name}", *arguments]
        runpy.run_module(f"lungtl.{name}", run_name="__main__", alter_sys=True)
    else:
        from lungtl.settings.nearest import nearest

        print(f"error: unknown command {name}; {nearest(name, COMMANDS)}", file=sys.stderr)
        sys.exit(2)


def help_text() -> str:
    """All commands, a line each."""
    lines = [f"  {name:<10} {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [
            "usage: lungtl COMMAND [key=value ...]",
            "",
            *lines,
            "",
            "lungtl COMMAND --help lists a command's settings. python -m lungtl.COMMAND is the same.",
            "Research software, not a medical device.",
        ]
    )


if __name__ == "__main__":
    main()
