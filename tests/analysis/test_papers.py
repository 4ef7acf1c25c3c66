from __future__ import annotations

import pytest

from mpt.analysis.papers import EFFICIENT, TABLES, markdown, published, table_names
from tests.analysis.conftest import curve


@pytest.mark.parametrize(
    ("table", "method", "network", "top_1", "weights"),
    [
        ("table 1", "MPT (80)", "ResNet-18", "94.66", "2.2M"),
        ("table 1", "MPT (80)+BN", "ResNet-18", "94.8", "2.2M"),
        ("table 2", "MPT (75)", "VGG-Small", "88.52", "1.44M"),
        ("table 2", "IR-Net", "ResNet-18", "91.5", "11.2M"),
        ("table 3", "MPT (80)+BN", "WRN-50", "74.03", "13.7M"),
        ("table 4", "MPT (60)+BN", "WRN-34", "52.07", "19.3M"),
        ("table 8", "MPT-1/32 (95)", "VGG-Small", "91.48", "0.23M"),
        ("table 9", "MPT (75, 1.25x)", "VGG-Small", "88.49", "1.44M"),
        ("table 9", "IR-Net", "ResNet-18", "91.5", "4.6M"),
        ("table 10", "PACT", "ResNet-18", "65.8", "11.2M"),
        ("table 11", "WRPN", "ResNet-34", "60.5", "21.8M"),
    ],
)
def test_published_csv_quotes_a_row_as_printed(table, method, network, top_1, weights):
    rows = published([table])
    (row,) = rows[(rows["method"] == method) & (rows["network"] == network)].to_dict("records")
    assert (row["top_1"], row["weights"]) == (top_1, weights)
    assert row["test_acc"] == pytest.approx(float(top_1) / 100)
    assert row["num_kept"] == pytest.approx(float(weights[:-1]) * 1e6)


LATER = {
    "Koster et al. 2022, signed supermasks": ("README of the code, mean of 50 runs", 20),
    "Zhang et al. 2021, lottery jackpots": ("README of the code, one run", 14),
    "Zhang et al. 2022, OptG": ("README of the code, one run", 4),
    "Chijiwa et al. 2021, IteRand": ("a web page's summary, mean of 3 runs", 1),
}


@pytest.mark.parametrize("paper", LATER)
def test_numbers_of_later_work_are_marked_as_what_they_are(paper):
    rows, (basis, count) = published(paper=paper), LATER[paper]
    assert set(rows["basis"]) == {basis}
    assert len(rows) == count
    assert rows["test_acc"].between(0.4, 1).all()
    assert rows["prune"].dropna().between(0, 1).all()
    assert set(published(paper=EFFICIENT)["basis"]) == set(published()["basis"]) == {"printed table"}


def test_a_row_of_later_work_is_quoted_as_it_stands():
    rows = published(paper="Koster et al. 2022, signed supermasks")
    (row,) = rows[(rows["network"] == "Conv4") & (rows["method"] == "signed supermask")].to_dict("records")
    assert (row["model"], row["top_1"], row["prune"]) == ("conv4", "77.40", pytest.approx(0.9709))


def test_every_table_has_as_many_rows_as_in_the_paper():
    counts = published()["table"].value_counts().to_dict()
    assert counts == dict(
        zip((f"table {n}" for n in (1, 2, 3, 4, 8, 9, 10, 11)), (7, 7, 7, 7, 12, 10, 10, 12), strict=True)
    )
    assert set(TABLES) == {table.replace(" ", "") for table in counts}


def test_published_csv_quotes_the_seconds_and_rates_of_the_efficient_paper():
    seconds = published(["table 2"], paper=EFFICIENT).set_index(["method.selection", "method.power"])[
        "seconds_per_epoch"
    ]
    assert seconds["sorting"].tolist() == [24.3, 25.4, 26.8]
    assert seconds["threshold"].tolist() == [21.5, 22.3, 24.5]
    assert published(["table 4"], paper=EFFICIENT)["report/acceleration"].tolist() == [1.4, 2.3, 3.0]


def test_our_rows_stand_below_the_published_ones_with_budget_and_n(table):
    rows = table(
        *curve({0.8: 0.9}, model="cifar_resnet18", width=0.25, sweep="table1", budget="mini", num_kept=2_232_870),
        *curve({0.8: 0.5}, model="conv2", sweep="fig2", budget="mini"),
        *curve({0.8: 0.7}, model="vgg_small", sweep="table1", budget="mini", binary_activations=True),
    )
    text = markdown(["table1"], rows)
    lines = text.splitlines()
    assert lines[2:4] == ["| method | network | top-1 % | weights | source |", "|---|---|---:|---:|---|"]
    assert lines[4] == "| BinaryConnect | VGG-Small | 91.7 | 4.6M | published |"
    assert lines[-1] == (
        "| MPT-1/32 (80) | cifar_resnet18, 0.25x | 90.00 (89.00 to 91.00) | 2.2M "
        "| **ours**: digits, budget mini, 10 epochs, n = 3 |"
    )
    assert "conv2" not in text  # from another sweep
    assert "vgg_small" not in text  # binary activations: table 2


def test_table_8_shows_the_runs_of_table_1_s_sweep(table):
    rows = table(*curve({0.8: 0.9}, model="cifar_resnet18", sweep="table1"))
    assert "cifar_resnet18" in markdown(["table8"], rows)
    assert markdown(["table8", "table9"], rows).count("**Table") == 2


def test_a_name_of_several_tables_is_bounded_by_those_that_there_are():
    assert table_names("table8-11") == ("table8", "table9", "table10", "table11")
    assert table_names("fig2") == table_names("table²") == ()
    for name in ("table1-99999999999", "table5", "table4-1"):
        with pytest.raises(ValueError, match="there is no table"):
            table_names(name)
