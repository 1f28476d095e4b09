from fastvim.training.progress import StepProgress


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
