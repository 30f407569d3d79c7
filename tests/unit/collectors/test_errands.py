import threading

import pytest

from workbench.collectors.errands import Errands


def test_errands_run_in_the_other_thread_and_raise_here():
    errands, ran = Errands(), []
    thread = threading.Thread(target=errands.run)
    thread.start()
    errands.do(lambda: ran.append(threading.get_ident()))
    with pytest.raises(ZeroDivisionError):
        errands.do(lambda: 1 // 0)
    errands.do(lambda: ran.append(threading.get_ident()))
    errands.close()
    thread.join(20)
    assert not thread.is_alive() and ran == [thread.ident] * 2


def test_an_interrupt_takes_effect_at_the_end_of_the_errand(monkeypatch):
    errands, go, ended = Errands(), threading.Event(), []
    thread = threading.Thread(target=errands.run)
    thread.start()

    def job():
        go.wait(20)
        ended.append(True)

    def interrupted(*_):
        go.set()
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        errands.do(job)
    assert ended == [True]
    errands.close()
    thread.join(20)
