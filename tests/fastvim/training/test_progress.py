import pytest

from fastvim.training import progress as module
from fastvim.training.progress import StepProgress


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves on."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_speed_is_of_the_steps_together_without_the_first(clock, capfd):
    """Three quick steps and a slow one are not on average quick."""
    with StepProgress(steps=100, first_step=0, batch_size=10, enabled=True) as progress:
        waits = []

        def slow():
            while True:
                clock.now += waits.pop()
                yield {}

        batches = progress.waiting_for(slow())
        for step, (waiting, computing) in enumerate([(50, 50), (0, 1), (0, 1), (0, 1), (6, 1)]):
            waits.append(waiting)
            next(batches)
            clock.now += computing
            progress.update(step=step + 1, loss=1.5, lr=1e-3)
    assert progress.images_per_s == 4.0  # 40 images in 10 s
    assert (
        capfd.readouterr().err.splitlines()[-1].endswith("4 images/s (60% waiting)  0:03:58 left")
    )


def test_waiting_for_data_is_counted(clock):
    def slow():
        for seconds in (3, 1):
            clock.now += seconds
            yield {}

    progress = StepProgress(steps=2, first_step=0, batch_size=8, enabled=False)
    assert len(list(progress.waiting_for(slow()))) == 2
    assert progress._waited == 4


def test_log_gets_plain_lines_with_the_numbers(capfd):
    with StepProgress(steps=100, first_step=10, batch_size=8, enabled=True) as progress:
        for step in range(11, 15):
            progress.update(step=step, loss=1.5, lr=1e-3)
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert not out
    assert len(lines) == 2, "one at the start, one at the end"
    assert lines[1].startswith("step 14/100  loss 1.5000  lr 1.00e-03  ")
    assert "images/s" in lines[1]
    assert lines[1].endswith(" left")
    assert "\x1b" not in err


def test_other_processes_are_silent(capfd):
    with StepProgress(steps=2, first_step=0, batch_size=8, enabled=False) as progress:
        progress.update(step=1, loss=1.5, lr=1e-3)
    assert capfd.readouterr() == ("", "")


def test_terminal_gets_a_bar(capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with StepProgress(steps=2, first_step=0, batch_size=8, enabled=True) as progress:
        progress.update(step=2, loss=1.5, lr=1e-3)
    err = capfd.readouterr().err
    assert "2/2" in err
    assert "loss 1.5000" in err
