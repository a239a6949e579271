"""Files that are written again keep what somebody else wrote there."""

from scaling.study.paths import set_aside


def test_other_content_is_set_aside_and_the_same_content_is_not(tmp_path):
    path = tmp_path / "a sweep.yaml"
    assert set_aside(path, "new") is None
    path.write_text("mine, edited: 猫")
    former = set_aside(path, "new")
    assert former is not None and former.read_text() == "mine, edited: 猫" and not path.exists()
    path.write_text("new")
    assert set_aside(path, "new") is None and path.read_text() == "new"
