"""Servers on other nodes that a member needs: known once, then lost."""

from ascend_v4.run.peers import Answers, Peers

HEAD, OTHER = "http://10.0.0.1:8000", "http://10.0.0.2:8000"


def judged(peers, *answers):
    return [peers.judge(Answers({HEAD: a, OTHER: b})) for a, b in answers]


def test_a_server_that_never_answered_is_still_starting():
    peers = Peers((HEAD, OTHER))
    assert judged(peers, (False, False), (False, False), (False, False)) == [("", 0)] * 3


def test_once_all_serve_no_server_is_starting():
    peers = Peers((HEAD, OTHER))
    silent = Answers({HEAD: False, OTHER: True})
    assert [peers.judge(silent, serving=True) for _ in range(3)] == [(HEAD, n) for n in (1, 2, 3)]


def test_only_failures_in_a_row_count():
    peers = Peers((HEAD, OTHER))
    seen = judged(peers, (True, True), (False, True), (False, True), (True, True), (True, False))
    assert [count for _, count in seen] == [0, 1, 2, 0, 1]
    assert seen[1][0] == HEAD
    assert seen[4][0] == OTHER


def test_a_refused_connection_gets_more_patience():
    """The host is there and its server is gone: its own node tells, if it can."""
    peers = Peers((HEAD,))
    peers.judge(Answers({HEAD: True}))
    refused = Answers({HEAD: False}, frozenset({HEAD}))
    counts = [peers.judge(refused)[1] for _ in range(9)]
    assert counts == [0] * 6 + [1, 2, 3]
    peers.judge(Answers({HEAD: True}))
    assert peers.judge(refused) == (HEAD, 0)
    assert [peers.judge(Answers({HEAD: False}))[1] for _ in range(3)] == [1, 2, 3]


def test_the_failure_names_both():
    peers = Peers((HEAD,))
    judged(peers, (True, True), (False, True), (False, True))
    lost = peers.lost("server-0-1", HEAD, ["last line"])
    assert (lost.code, lost.kind, lost.member, lost.tail) == (
        17,
        "peer-lost",
        "server-0-1",
        ["last line"],
    )
    assert lost.message == (
        "server-0-1 lost the server at http://10.0.0.1:8000: 3 questions had no answer"
    )


def test_any_answer_counts_and_silence_is_short(tree):
    """A server that says 503 is there; a port that nobody listens on is not."""
    serving = tree.serve()
    serving.ready()
    url = f"http://127.0.0.1:{tree.port}"
    assert Peers((url,)).ask(2.0).by_url == {url: True}
    assert serving.end(15) == 143
    assert Peers((url,)).ask(2.0) == Answers({url: False}, frozenset({url}))
