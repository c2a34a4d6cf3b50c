"""How a deployment ends: hung up, a failed node's next command, a way that can't start."""

import signal
import subprocess
import threading
import urllib.request

from tests.support.fake_tree_run import until

NO_CHECK = "--no-check-engine"


def test_a_lease_ends_a_node_that_nobody_reads(nodes):
    """Its log has filled the way, and the feeder is gone: the engine doesn't outlive the lease."""
    one = nodes(1, stderr=["x" * 1000] * 200)
    tree = one.trees[0]
    words = ["serve", "--topology", "-", "--node", "n0", "--lease", 6, "--json", NO_CHECK]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        tree.command(*words), env=tree.env(), stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        try:
            process.stdin.write(one.deployment.file.read_bytes() + b"\n...\n")
            process.stdin.flush()
            until(lambda: tree.read("state").get("state") == "ready", 40)
            process.stdin.close()
            until(lambda: not tree.strays(), 10)
            # Not read until the end: what fitted into the pipe is there.
            assert process.wait(20) == 17
            assert b'"kind": "lease-lost"' in process.stdout.read()
        finally:
            process.kill()


def test_hang_up_drains_like_term(nodes):
    """A request in flight is answered, though the other node has ended long before."""
    two = nodes(2, answer_s=4)
    url = two.up(NO_CHECK, "--drain-timeout", 30, "--probe-interval", 0).ready()["endpoint"]
    answered = []

    def ask():
        request = urllib.request.Request(f"{url}/completions", b"{}")
        with urllib.request.urlopen(request, timeout=30) as reply:
            answered.append(reply.status)

    def running():
        with urllib.request.urlopen(url.replace("/v1", "/metrics")) as reply:
            return b'num_requests_running{engine="0"} 1.0' in reply.read()

    client = threading.Thread(target=ask)
    client.start()
    until(running)
    assert two.deployment.end(signal.SIGHUP) == 129
    client.join()
    assert answered == [200]
    assert two.exits() == [143, 143]
    assert two.alive() == {}


def test_next_command_of_a_failed_node_is_for_this_machine(nodes):
    """The node's own hint names its run there; the log is here too."""
    two = nodes(2, load_s=0.5)
    two.trees[1].script(die_phase="weights", code=3)
    assert two.up(NO_CHECK).end() == 9
    words = two.deployment.error()["next"].split()
    assert words == ["ascend-v4", "logs", two.deployment.newest().name, "--member", "n1"]
    shown = two.trees[0].run(*words[1:], XDG_STATE_HOME=two.deployment.env["XDG_STATE_HOME"])
    assert (shown.returncode, "Starting to load model fake" in shown.stdout) == (0, True)


def test_next_command_for_a_node_says_where(nodes):
    two = nodes(2, load_s=30)
    assert two.up(NO_CHECK, "--deadline", 3).end() == 8
    error = two.deployment.error()
    name = error["message"].split(":")[0].removeprefix("node ")
    assert error["next"] == f"on {name}: read the log; --deadline SECONDS allows more time"


def test_an_ssh_that_is_not_here(nodes):
    """It is not the program on the node that is missing."""
    two = nodes(2, connects={0: "root@nowhere", 1: "root@nowhere"})
    two.deployment.env["ASCEND_V4_SSH"] = "no-such-ssh -F x"
    assert two.up().end() == 6
    error = two.deployment.error()
    assert (error["kind"], error["next"]) == (
        "no-way",
        "install it here, or name another: ASCEND_V4_SSH",
    )
    assert error["message"].count("no-such-ssh can't be started on this machine") == 2


def test_a_way_that_cannot_be_started(nodes):
    two = nodes(2, connects={1: "exec: no-such-runner n1"})
    assert two.up(NO_CHECK, "--skip-preflight").end() == 6
    error = two.deployment.error()
    assert (error["kind"], error["message"]) == (
        "no-way",
        "node n1: no-such-runner can't be started on this machine: No such file or directory",
    )
    assert two.alive() == {}
