"""Whether the KV cache gets from prefill to decode, judged by a router's answers and counters."""

from ascend_v4.run.liveness import Liveness, Sample
from ascend_v4.run.ready import ReadyProbe
from ascend_v4.run.transfer import Transfers, parse_transferred

METRICS = b"""\
# TYPE vllm:prompt_tokens_by_source_total counter
vllm:prompt_tokens_by_source_total{engine="0",source="local_compute"} 9.0
vllm:prompt_tokens_by_source_total{engine="0",source="external_kv_transfer"} 64.0
vllm:prompt_tokens_by_source_total{engine="1",source="external_kv_transfer"} 16.0
"""


def test_only_tokens_from_another_server_count():
    assert parse_transferred(METRICS) == b"64.0 16.0"
    assert parse_transferred(b"vllm:prompt_tokens_total 3\n") == b""


def test_each_prompt_is_new_and_longer_than_a_block():
    transfers = Transfers(())
    one, other = transfers.prompt(), transfers.prompt()
    assert one != other
    assert min(len(one.split()), len(other.split())) >= 64


def test_a_decode_server_that_is_silent_once_keeps_its_count(trees):
    """What one doesn't tell this time is no progress."""
    tree = trees(transferred=64)
    serving = tree.serve()
    serving.ready()
    transfers = Transfers((f"http://127.0.0.1:{tree.port}", "http://127.0.0.1:1"))
    assert transfers.progress(2.0) == b"64"
    assert serving.end(15) == 143
    assert transfers.progress(2.0) == b"64"


def test_moved_tokens_excuse_a_router_that_gives_no_answer():
    judge = Liveness()
    samples = [(True, b"1"), (False, b"1"), (False, b"1"), (False, b"2"), *[(False, b"2")] * 3]
    hung = [judge.judge(Sample(generated, True, moved)) for generated, moved in samples]
    assert hung == [False] * 6 + [True]


def test_a_probe_with_transfers_asks_with_its_own_prompt(trees):
    tree = trees()
    serving = tree.serve()
    serving.ready()
    asked = []

    class Counted(Transfers):
        def prompt(self):
            asked.append(1)
            return super().prompt()

    probe = ReadyProbe(f"http://127.0.0.1:{tree.port}", "deepseek_v4", transfers=Counted(()))
    assert [probe.generated(), probe.generated()] == [True, True]
    assert len(asked) == 2
    assert serving.end(15) == 143
