"""Makes networks of usual depth smaller, on a folder of photos of 96x96.

    python benchmarks/slim_photos.py --data-dir DIR [--work DIR]

The photos, MobileNetV2 of alpha 0.35 and the residual network of 27
convolutions are those of `real_networks.py`, whose `--work` can be given. Then
`kmod slim`, a process of its own, makes of each source one network of all ten
classes with 0.6 times the multiply-accumulates, and one of three classes with
0.35 times. They are compared on 4,000 test photos, those of three classes with
the source restricted to these.

Every finished part is kept under `--work`, and a later call goes on from there.
Writes `slim_photos.json` and the section `slim_photos` of `summary.json`.
"""

import argparse
import json
from pathlib import Path

from common import command
from common import part
from common import update_cells
from common import update_summary
from photos import run_kmod
from real_networks import FEW
from real_networks import NETWORKS
from real_networks import fit
from real_networks import prepare

RESULT = "slim_photos"
TARGETS = {"all": 0.6, "three": 0.35}
EPOCHS = {"all": 8, "three": 16}  # An epoch of three classes is shorter.


def slimmed(args, network: str, kind: str) -> dict:
    """Figures of what `kmod slim` makes of a source."""
    folder = args.work / network
    part(folder / "source.json", fit, args, network, "photos-10", "source")
    classes = FEW if kind == "three" else ()
    done = run_kmod(
        folder,
        *("slim", "source.keras", "--data", "../photos-10"),
        *("--macs-target", TARGETS[kind], "--epochs", EPOCHS[kind]),
        *(word for name in classes for word in ("--only", name)),
        *("--augment", "--test", "../photos-10:test"),
        *("--out", f"slim/{kind}", "--json"),
    )
    if done["exit_code"]:
        raise SystemExit("\n".join(done["messages"]))
    printed = done["printed"]
    return {
        "command": done["command"],
        "source": printed["before"],
        "slim": printed["slimmed"],
        "agreement": printed["learned"]["agreement"],
        "seconds": done["seconds"],
        "peak_mib": done["peak_mib"],
        "load": done["load"],
    }


def summarise(cells: dict[str, dict]) -> dict:
    """What the summary holds, by cell."""
    return {
        name: {
            "source_accuracy": cell["source"]["accuracy"],
            "accuracy": cell["slim"]["accuracy"],
            **{
                f"{key}_ratio": cell["slim"][key] / cell["source"][key]
                for key in ("macs", "parameters", "bytes")
            },
        }
        for name, cell in cells.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("networks-work"))
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=NETWORKS
    )
    args = parser.parse_args()
    prepare(args)
    cells = {}
    for network in args.networks:
        for kind in TARGETS:
            name = f"{kind}-{network}"
            path = args.work / "slim-cells" / f"{name}.json"
            cells[name] = part(path, slimmed, args, network, kind)
            print(name, json.dumps(cells[name]), flush=True)
    cells = update_cells(RESULT, cells, command(args, "networks"))
    update_summary(RESULT, summarise(cells))


if __name__ == "__main__":
    main()
