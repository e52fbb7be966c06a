"""``python -m tests.support.make_images``: makes what tests with containers take long to make for
themselves, before they run. Without a container engine it says so and is content.
"""

from __future__ import annotations

import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from logship.errors import LogshipError
from logship.rehearsal.engine import CURRENT_LOGSHIP
from logship.rehearsal.engine.containers import ContainerEngine
from tests.support.base_images import SYSTEMS, BaseImages, ImageFailed, why_none
from tests.support.product_images import product_images


def main() -> int:
    try:
        engine = ContainerEngine()
    except LogshipError as error:
        print(f"no images for tests: {error.what}")
        return 0
    try:
        return _make(engine)
    finally:
        engine.close()


def _make(engine: ContainerEngine) -> int:
    reason = why_none(engine.client)
    if reason:
        print(f"no images for tests: {reason}")
        return 0
    begun = time.monotonic()
    images = BaseImages(engine.client)
    try:
        with ThreadPoolExecutor(len(SYSTEMS)) as threads:
            list(threads.map(images.base, SYSTEMS))
        made = [images.postgres(system, "16.14") for system in SYSTEMS]
        images.with_tools()
        for image in made:  # one for each Python
            engine.code.provide(CURRENT_LOGSHIP, engine.images.probe(image))
        if shutil.which("docker"):
            product_images(images)
    except (ImageFailed, LogshipError) as error:
        print(f"images for tests can't be made: {error}", file=sys.stderr)
        return 1
    seconds = time.monotonic() - begun
    if seconds > 10:
        print(f"images for tests: made in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
