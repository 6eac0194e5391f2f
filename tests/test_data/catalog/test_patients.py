"""Patient IDs of images: from the table, else from NIH's names, else each image is a patient of its own."""

from data.catalog.patients import chest_patient, chest_patients, chexpert_patient


def test_names_of_nihs_pattern_tell_the_patient():
    names = ["00000013_005.png", "1_0.jpg", "IMG00013.png", "scan_001.png", "a.b_1.png"]
    assert [chest_patient(name) for name in names] == ["00000013", "1", "IMG00013", "scan_001", "a.b_1"]
    assert chexpert_patient("train/patient00007/study2/view1_frontal.jpg") == "train/patient00007"


def test_the_table_comes_first_and_covers_images_of_the_same_number(capsys):
    table = {"00000013_005.png": "13", "x.png": "13", "00000014_000.png": "p"}
    names = ["x.png", "00000013_005.png", "00000013_006.png", "00000014_001.png", "00000015_000.png"]
    assert chest_patients(names, table) == ["13", "13", "13", "p", "00000015"]
    assert capsys.readouterr().err == ""


def test_images_of_nobody_known_are_told(capsys):
    assert chest_patients(["a.png", "b_1.png", "1_0.png"], {}) == ["a", "b_1", "1"]
    error = capsys.readouterr().err
    assert error.startswith("2 of 3 images have no patient") and "a patient of its own (a.png)" in error
