from mmkdprune.deploy.compact_report import odd_widths_line


def test_odd_widths_are_named_with_what_to_do():
    layers = {"layer1.conv1": {"before": 16, "after": 10}, "layer2.conv1": {"before": 32, "after": 24}}
    line = odd_widths_line({"layers": layers})
    assert line.startswith("1 of 2 narrower layers have widths that are no multiple of 8 (layer1.conv1: 10, ...)")
    assert "round_to=8" in line
    assert "--divisor 8" in line
    assert odd_widths_line({"layers": {"layer2.conv1": {"before": 32, "after": 24}}}) == ""
