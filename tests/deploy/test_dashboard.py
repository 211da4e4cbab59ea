"""grafana/gpt-keras.json: a dashboard as Grafana has them, of metrics that there are."""

import itertools
import json
import re

import pytest

TYPES = {"row", "stat", "timeseries", "bargauge"}


@pytest.fixture(scope="module")
def dashboard(deploy):
    return json.loads((deploy / "grafana" / "gpt-keras.json").read_text())


@pytest.fixture(scope="module")
def panels(dashboard):
    return dashboard["panels"]


def test_dashboard(dashboard):
    assert re.fullmatch(r"[\w-]{1,40}", dashboard["uid"])
    assert dashboard["title"]
    assert "id" not in dashboard  # Grafana's own
    assert isinstance(dashboard["schemaVersion"], int)
    assert dashboard["schemaVersion"] >= 39
    assert dashboard["time"].keys() == {"from", "to"}
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert variables.keys() == {"datasource", "model"}
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["model"]["multi"] is variables["model"]["includeAll"] is True


def test_panels(panels):
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    for panel in panels:
        assert panel["type"] in TYPES
        assert panel["title"]
        if panel["type"] == "row":
            assert panel["panels"] == []  # open: what is in it follows
            continue
        assert panel["fieldConfig"].keys() == {"defaults", "overrides"}
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert isinstance(panel["options"], dict)
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_data_source_is_the_variable(dashboard, panels):
    source = {"type": "prometheus", "uid": "${datasource}"}
    targets = [target for panel in panels for target in panel.get("targets", [])]
    charts = [panel for panel in panels if panel["type"] != "row"]
    queries = [each for each in dashboard["templating"]["list"] if each["type"] == "query"]
    for place in (*targets, *charts, *queries):
        assert place["datasource"] == source


def test_panels_lie_side_by_side(panels):
    taken = {}
    for panel in panels:
        place = panel["gridPos"]
        x, y, width, height = (place[name] for name in ("x", "y", "w", "h"))
        assert width > 0
        assert height > 0
        assert 0 <= x <= x + width <= 24
        for cell in itertools.product(range(x, x + width), range(y, y + height)):
            assert cell not in taken, f"{panel['title']} lies on {taken.get(cell)}"
            taken[cell] = panel["title"]


def test_queries(dashboard, panels, check_query):
    for panel in panels:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$__rate_interval", "1m").replace("$model", "m")
            assert "$" not in query
            check_query(query)
            names = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            by = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", query))))
            assert names <= by, f"{panel['title']} has no such labels"
    (model,) = (each for each in dashboard["templating"]["list"] if each["name"] == "model")
    asked = re.fullmatch(r"label_values\((.*), model_name\)", model["query"]["query"])
    check_query(asked[1] + '{model_name="m"}')


def test_microseconds_are_shown_as_seconds(panels):
    for panel in panels:
        for target in panel.get("targets", []):
            if "_latency" in target["expr"]:
                assert target["expr"].endswith(" / 1e6"), target["expr"]
