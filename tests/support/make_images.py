"""``python -m tests.support.make_images``: makes what tests with containers take long to make for
themselves, before they run. Where it can't it says so and is content: they are skipped then.
"""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor

from logship.errors import LogshipError
from logship.rehearsal.engine import CURRENT_LOGSHIP
from logship.rehearsal.engine.containers import ContainerEngine
from tests.support.base_images import SYSTEMS, BaseImages, ImageFailed, why_none
from tests.support.product_images import product_images


def main() -> None:
    try:
        engine = ContainerEngine()
    except LogshipError as error:
        print(f"!! no images for tests: {error.what}")
        return
    try:
        _make(engine)
    except Exception as error:  # also of docker-py and docker: the tests that lack it say so
        print(f"!! images for tests can't be made: {error}")
    finally:
        engine.close()


def _make(engine: ContainerEngine) -> None:
    reason = why_none(engine.client)
    if reason:
        raise ImageFailed(reason)
    begun = time.monotonic()
    images = BaseImages(engine.client)
    with ThreadPoolExecutor(len(SYSTEMS)) as threads:
        list(threads.map(images.base, SYSTEMS))
    made = [images.postgres(system, "16.14") for system in SYSTEMS]
    images.with_tools()
    for image in made:  # one for each Python
        engine.code.provide(CURRENT_LOGSHIP, engine.images.probe(image))
    if shutil.which("docker"):
        product_images(images)
    seconds = time.monotonic() - begun
    if seconds > 10:
        print(f"images for tests: made in {seconds:.0f} s")


if __name__ == "__main__":
    main()
