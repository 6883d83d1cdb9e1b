"""How a service stops: what follows one another shares one end."""

import asyncio

from streamward.server.admission import Admission


class Clock:
    """Time that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_graces_after_a_stop_do_not_add_up() -> None:
    clock = Clock()
    admission = Admission(1, drain_s=1.0, clock=clock)
    admission.close()
    clock.now = 1.5
    assert (admission.until(0.2), admission.until(0.75)) == (0.0, 0.25)


def test_a_drain_ends_with_its_grace_and_not_that_long_after_it_began() -> None:
    clock = Clock()
    admission = Admission(1, drain_s=1.0, clock=clock)

    async def used() -> bool:
        with admission.admitted():
            admission.close()
            clock.now = 3601.0
            async with asyncio.timeout(30):
                return await admission.drain(grace_s=3600.0)

    assert asyncio.run(used()) is False
