"""Fewer threads while another process holds cores, all of them afterwards."""

import itertools

import torch

from streamward.engine.threads import ThreadGovernor, Usage, process_usage


class Machine:
    """A clock and counters that a test moves."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.preemptions = 0

    def measure(self) -> Usage:
        return Usage(self.wall, self.cpu, self.preemptions)

    def run(self, governor: ThreadGovernor, *, seconds: float = 0.15, busy: float, preemptions: int) -> int:
        """Run one step and return how many threads torch had in it."""
        with governor.step():
            threads = torch.get_num_threads()
            self.wall += seconds
            self.cpu += seconds * busy
            self.preemptions += preemptions
        return threads


def test_all_threads_are_used_while_the_machine_is_free():
    machine = Machine()
    governor = ThreadGovernor(2, measure=machine.measure)
    assert {machine.run(governor, busy=2.0, preemptions=0) for _ in range(20)} == {2}


def test_preempted_steps_that_got_less_lower_their_number():
    machine = Machine()
    governor = ThreadGovernor(2, measure=machine.measure)
    machine.run(governor, busy=1.3, preemptions=30)
    machine.run(governor, busy=1.3, preemptions=30)
    assert machine.run(governor, busy=1.0, preemptions=0) == 1


def test_a_core_lost_for_a_moment_is_not_given_up():
    machine = Machine()
    governor = ThreadGovernor(2, measure=machine.measure)
    machine.run(governor, seconds=0.01, busy=1.3, preemptions=1)
    assert {machine.run(governor, seconds=0.01, busy=2.0, preemptions=0) for _ in range(50)} == {2}
    for _ in range(3):  # now and then, but each time for long
        machine.run(governor, busy=1.0, preemptions=30)
        assert {machine.run(governor, busy=2.0, preemptions=0) for _ in range(3)} == {2}


def test_a_core_lost_over_many_short_steps_is_given_up():
    machine = Machine()
    governor = ThreadGovernor(2, measure=machine.measure)
    threads = [machine.run(governor, seconds=0.01, busy=1.3, preemptions=1) for _ in range(30)]
    assert threads[0] == 2
    assert threads[-1] == 1


def test_threads_that_sleep_instead_of_spinning_are_left_alone():
    machine = Machine()
    governor = ThreadGovernor(2, measure=machine.measure)
    machine.run(governor, busy=1.3, preemptions=0)
    assert machine.run(governor, busy=1.3, preemptions=0) == 2


def test_all_threads_are_tried_again_after_a_pause_that_grows():
    machine = Machine()
    governor = ThreadGovernor(4, measure=machine.measure)
    tries, before = [], 1
    for _ in range(400):
        threads = machine.run(governor, busy=2.0, preemptions=30)
        if threads == 4 != before:
            tries.append(machine.wall)
        before = threads
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert len(pauses) >= 3
    assert all(later > 1.5 * earlier for earlier, later in itertools.pairwise(pauses))


def test_the_machine_freed_gets_all_threads_back():
    machine = Machine()
    governor = ThreadGovernor(2, measure=machine.measure)
    machine.run(governor, busy=1.3, preemptions=30)
    machine.run(governor, busy=1.3, preemptions=30)
    machine.wall += 5
    assert {machine.run(governor, busy=2.0, preemptions=0) for _ in range(5)} == {2}


def test_torch_keeps_its_own_setting_outside_steps():
    own = torch.get_num_threads()
    governor = ThreadGovernor(own + 1, measure=Machine().measure)
    with governor.step():
        assert torch.get_num_threads() == own + 1
    assert torch.get_num_threads() == own


def test_this_process_can_be_measured():
    before = process_usage()
    sum(range(10**6))
    after = process_usage()
    assert after.wall > before.wall
    assert after.cpu > before.cpu
    assert after.preemptions >= before.preemptions
