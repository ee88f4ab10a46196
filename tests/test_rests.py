"""Holds and durations of single pictures and ways: which frame is shown when, what is refused, what files carry."""

import json

import pytest
from conftest import picture

import engine.__main__ as cli
from engine.requests import EngineError
from engine.requests.finish import Finish, finish_of, several
from engine.vision import film, video
from engine.vision.timeline import timeline

KEYS = (0, 8, 16, 24)  # four pictures, nine frames a way
LOOP = {"method": "morph", "keyframes": 4, "frames": 9, "loop": True}


def line(frames=25, keys=KEYS, **how):
    return timeline(frames, finish_of(how), keys)


def times(made):
    """(place, when it comes, how long it is shown) of the pictures."""
    at, out = 0.0, []
    for place, count in made.shots:
        seconds = count / float(made.rate)
        if place in KEYS:
            out.append((place, at, seconds))
        at += seconds
    return out


def test_each_picture_rests_as_long_as_was_said():
    still, made = line(), line(hold="0,1,0.5,2")
    for (_, _, before), (_, _, after), hold in zip(times(still), times(made), (0, 1, 0.5, 2), strict=True):
        assert after == pytest.approx(before + hold)
    assert made.seconds == still.seconds + 3.5
    assert line(hold="1;;0;-") == line(hold=[1, None, 0, None]) == line(hold="1 0 0 0")  # what is left out rests as all
    for own in ({}, {"ease": True, "duration": 20}, {"smooth": True, "duration": 14}, {"trim": "20,80"}):
        assert line(hold="2,2,2,2", **own) == line(hold=2, **own)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("ease", [False, True])
def test_each_way_takes_as_long_as_was_said(smooth, ease):
    made = line(durations="2,4,1", hold="0,1,0,2", smooth=smooth, ease=ease)
    assert made.seconds == pytest.approx(10, abs=0.5 / 60) and made.ways == pytest.approx((2, 4, 1))
    assert {p for p, _ in made.shots} >= {*range(25)} or smooth
    middle = [at + seconds / 2 for _, at, seconds in times(made)]  # a drawn frame stands for half a step before it
    assert middle[1] - middle[0] == pytest.approx(2 + 0.5, abs=0.5)
    assert middle[2] - middle[1] == pytest.approx(4 + 0.5, abs=0.5)
    assert middle[3] - middle[2] == pytest.approx(1 + 1, abs=0.5)
    back = line(durations="2,4,1", hold="0,1,0,2", smooth=smooth, ease=ease, there_and_back=True)
    assert back.seconds == pytest.approx(2 * 7 + 0 + 1 + 0 + 2 + 0 + 1, abs=0.5 / 60)


def test_ways_of_which_nothing_is_said():
    assert line(durations="2,,1").ways == pytest.approx((2, 1, 1))  # eight drawn frames, eight a second
    assert line(durations="2,,1", duration=8).ways == pytest.approx((2, 5, 1))
    assert line(durations="2,,", duration=8).ways == pytest.approx((2, 6 * 8 / 16.5, 6 * 8.5 / 16.5))
    assert line(durations="2").ways == pytest.approx((2, 2, 2)) and line(durations=1, fps=0).seconds == 3
    assert line(durations=[8.5 / 8, 1, 8.5 / 8]) == line()  # as long as they would be anyway


def test_a_part_has_its_part_of_a_way_and_the_rest_of_the_picture_that_was_cut_off():
    made = line(durations="2,4,1", hold="0.5,0,0,2", trim="25,75", smooth=True)  # from 6 to 18
    assert made.ways == pytest.approx((0.5, 4, 0.25))
    assert made.shots[0][1] == 1 + 30 and made.shots[-1][1] == 1 + 120


def test_a_loop_has_as_many_ways_as_pictures():
    made = line(32, loop=True, durations="1,2,3,4", hold="0,0,0,1")
    assert made.seconds == pytest.approx(11) and len(made.ways) == 4
    with pytest.raises(EngineError, match="durations must be one number, or one for each of the 4 ways, got 3"):
        line(32, loop=True, durations="1,2,3")


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"hold": "0,1,0.5"}, "hold must be one number, or one for each of the 4 pictures, got 3"),
        ({"hold": [1, 2, 3, 4, 5]}, "hold must be one number, or one for each of the 4 pictures, got 5"),
        ({"durations": "2,4"}, "durations must be one number, or one for each of the 3 ways, got 2"),
        ({"hold": "1,2,3,soon"}, "hold must be numbers from 0 to 60, one a picture, got soon"),
        ({"hold": [0, 1, 2, True]}, "hold must be numbers from 0 to 60, one a picture, got True"),
        ({"hold": "0;61;0;0"}, "hold must be numbers from 0 to 60, one a picture, got 61"),
        ({"hold": "1,000"}, "hold must be a number from 0 to 60, got 1,000"),
        ({"durations": "2,0,1"}, "durations must be numbers from 0.01 to 300, one a way, got 0"),
        ({"durations": float("nan")}, "durations must be numbers from 0.01 to 300, one a way, got nan"),
        (
            {"durations": "2,4,1", "duration": 9},
            "duration must be left out where every way has its own duration, got 9",
        ),
        ({"durations": "2,4,1", "fps": 12}, "fps must be left out where every way has its own duration, got 12"),
        ({"durations": "2,4,0.1"}, "durations must be at least 0.142 s for a way of 8.5 frames (60 a second), got 0.1"),
        ({"durations": "2,,3", "duration": 5}, "hold and durations must leave time to move, got 5 s in a film of 5 s"),
        ({"hold": "1,1,2,1", "duration": 5}, "hold must leave time to move, got 5 s in a film of 5 s"),
        ({"durations": "299,299,1"}, "film must last at most 300 s, got 599 s"),
    ],
)
def test_what_cannot_be_is_a_sentence(how, sentence):
    with pytest.raises(EngineError) as e:
        line(**how)
    assert sentence in str(e.value)


def test_numbers_as_people_list_them():
    assert several("0,1,0.5,2") == several("0; 1; 0,5; 2") == several("0 1 0.5 2") == several("[0, 1, 0.5, 2]")
    assert several("2 ,4, ,1") == (2, 4, None, 1) and several("2,,1") == several("2,-,1") == several([2, None, "1"])
    assert finish_of({"hold": "0,5"}) == finish_of({"hold": 0.5}) == Finish(hold=0.5)  # what it always meant


def test_files_carry_it_and_a_film_of_other_frames_lets_it_be(tmp_path, monkeypatch, capsys):
    settings = {"method": "morph", "keyframes": 3, "frames": 3, "loop": False}
    frames = [picture(i, (32, 32)) for i in range(5)]
    video.save_frames(frames, tmp_path / "frames", settings)
    out = tmp_path / "m.mp4"
    args = ["engine", "film", str(tmp_path / "frames"), "--hold", "0,1,0.5", "--durations", "1,2", "--out", str(out)]
    monkeypatch.setattr("sys.argv", args)
    assert cli.main() == 0 and json.loads(capsys.readouterr().out.splitlines()[-1])["seconds"] == 4.5
    assert (found := video.read_settings(out))["film"] == {"holds": [0, 1, 0.5], "durations": [1, 2]}
    assert finish_of(found["film"]) == finish_of({"hold": "0,1,0.5", "durations": "1,2"})
    args[args.index("--hold") + 1] = "0,1,0,1"
    assert cli.main() == 2
    assert "hold must be one number, or one for each of the 3 pictures, got 4" in capsys.readouterr().err
    own = film.finish_for(Finish(hold=1, holds=(0, 1, 2, 3), durations=(1, 2, 3, 4)), LOOP, 32)
    assert own.holds and own.loop and film.finish_for(own, settings, 5) == Finish(hold=1)
