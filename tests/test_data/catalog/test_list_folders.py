"""Where lists are looked for and made: two data sets in one checkout never meet."""

import pytest

from data.catalog import list_folders
from data.catalog.chest import index_chest, make_chest_lists
from data.catalog.list_folders import PUBLISHED, ListFolders, open_list
from data.catalog.names import NameList


@pytest.fixture
def root(tmp_path):
    """Six images."""
    (tmp_path / "nih").mkdir()
    for i in range(6):
        (tmp_path / "nih" / f"{i:08}_000.png").touch()
    return tmp_path / "nih"


@pytest.fixture(autouse=True)
def published(tmp_path, monkeypatch):
    monkeypatch.setattr(list_folders, "PUBLISHED", tmp_path / "published")
    return tmp_path / "published"


def folders_of(tmp_path, *, typed=None, weight=None, resume=None, is_main=True, output="out"):
    return ListFolders.of_run(
        typed=typed and str(tmp_path / typed), output=str(tmp_path / output), weight=weight and str(weight),
        resume=resume and str(resume), is_main=is_main,
    )  # fmt: skip


def opened(lists, root):
    index = index_chest(root)
    return open_list(lists, "chest", index, make=lambda folder: make_chest_lists(root, folder, index, seed=1))


def write(folder, *names, split="train"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"chest_{split}.txt"
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def leave_state(run):
    (run / "state").mkdir(parents=True)
    (run / "state" / "last.pt").touch()


def test_published_lists_lie_in_the_checkout():
    assert (PUBLISHED / "README.md").is_file()


def test_a_typed_folder_is_the_only_one(tmp_path, root, published):
    write(published, "00000000_000.png")
    leave_state(tmp_path / "out")
    write(tmp_path / "out" / "lists", "00000001_000.png")
    listed = opened(folders_of(tmp_path, typed="typed"), root)
    assert listed.source == tmp_path / "typed" / "chest_train.txt" and len(listed.names) == 6
    assert len(list((tmp_path / "out" / "lists").iterdir())) == 1


def test_lists_are_made_in_the_output_and_nowhere_else(tmp_path, root, published, capsys):
    before = sorted(root.iterdir())
    listed = opened(folders_of(tmp_path), root)
    assert listed.source == tmp_path / "out" / "lists" / "chest_train.txt" and len(listed.names) == 6
    assert sorted(root.iterdir()) == before and not published.exists()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"made {listed.source} from the images of {root}: 6 names",
        f"{listed.source}: 6 of 6 names in --data; 6 of 6 images of --data in a list",
    ]


def test_the_first_of_state_weights_and_published_folder_is_used(tmp_path, root, published):
    weight = tmp_path / "pre" / "weights.pt"
    expected = {"published": write(published, "00000000_000.png")}
    assert opened(folders_of(tmp_path, weight="none"), root).source == expected["published"]
    beside = write(weight.parent / "lists", "00000001_000.png")
    assert opened(folders_of(tmp_path, weight=weight), root).source == beside
    own = write(tmp_path / "out" / "lists", "00000002_000.png")
    assert opened(folders_of(tmp_path, weight=weight), root).source == beside  # no state: not a run to resume
    leave_state(tmp_path / "out")
    assert opened(folders_of(tmp_path, weight=weight, resume="auto"), root).source == own
    # A state in another folder is resumed with the list of its run.
    assert opened(folders_of(tmp_path, resume=tmp_path / "out" / "state" / "last.pt", output="new"), root).source == own


def test_a_trial_that_left_no_state_decides_nothing(tmp_path, root, capsys):
    write(tmp_path / "out" / "lists", "00000001_000.png")
    write(tmp_path / "out" / "lists", "00000005_000.png", split="test")
    (tmp_path / "out" / "lists" / "luna_train.txt").touch()
    lists = folders_of(tmp_path, resume="auto")
    assert len(opened(lists, root).names) == 6
    names = sorted(path.name for path in (tmp_path / "out" / "lists").iterdir())
    assert names == ["chest_test.old", "chest_train.old", "chest_train.txt", "luna_train.txt"]
    assert "chest_train.txt, of a run that left no state, is now chest_train.old\n" in capsys.readouterr().err
    # Asked again, as for a probe of the same run, the list that was made is the one that is used.
    assert opened(lists, root).source == tmp_path / "out" / "lists" / "chest_train.txt"
    assert capsys.readouterr().err.count("\n") == 1


def test_a_list_of_other_data_beside_the_weights_is_passed_over(tmp_path, root, capsys):
    beside = write(tmp_path / "pre" / "lists", "x.png", "y.png")
    lists = folders_of(tmp_path, weight=tmp_path / "pre" / "weights.pt")
    assert opened(lists, root).source == tmp_path / "out" / "lists" / "chest_train.txt"
    assert f"{beside}: none of its 2 names is in {root}: of other data, it is not used\n" in capsys.readouterr().err
    # A published list is used as it is, and names without a file are reported.
    write(list_folders.PUBLISHED, "x.png")
    assert len(opened(folders_of(tmp_path, output="other"), root).absent()) == 1


def test_other_processes_make_the_same_list_and_write_nothing(tmp_path, root, capsys, monkeypatch):
    main = opened(folders_of(tmp_path), root)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for options in ({"output": "other"}, {"typed": "typed"}):
        lists = folders_of(tmp_path, is_main=False, **options)
        assert list(opened(lists, root).names) == list(main.names)
    assert not (tmp_path / "other").exists() and not (tmp_path / "typed").exists()
    assert capsys.readouterr().err.count("\n") == 2, "the main process's two lines"


def test_data_in_no_list_is_named(tmp_path, root, capsys):
    write(tmp_path / "lists", "00000003_000.png", "00000001_000.png", "gone.png")
    write(tmp_path / "lists", "00000000_000.png", split="test")
    write(tmp_path / "lists", split="valid")
    listed = opened(ListFolders.at(tmp_path / "lists"), root)
    assert listed.there.tolist() == [True, True, False]
    assert capsys.readouterr().err == (
        f"{tmp_path}/lists/chest_train.txt: 2 of 3 names in --data, 1 not (gone.png); 3 of 6 images of --data in a "
        "list, 3 images in no list (00000002_000.png, 00000004_000.png, 00000005_000.png)\n"
    )


def test_only_what_should_be_listed_is_missed(tmp_path, root, capsys):
    write(tmp_path / "lists", "CheXpert/00000003_000.png")
    index = index_chest(root)
    open_list(
        ListFolders.at(tmp_path / "lists"), "chest", index, make=None, within="00000004",
        clean=lambda names, source: NameList.of(name.partition("/")[2] for name in names),
    )  # fmt: skip
    assert "1 of 1 names in --data; 0 of 1 images of --data in a list, 1 images in no list (00000004" in (
        capsys.readouterr().err
    )
