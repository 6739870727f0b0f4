"""docker's rules for ``rmi``, case by case."""

from __future__ import annotations

import pytest

from aruntime.errors import Conflict, ImageInUse
from aruntime.images.image import Image, ImageConfig
from aruntime.images.untag import Holder, Plan, deletions, plan_removal

ID = f"sha256:{'a' * 64}"
LAYERS = ("/layers/1", "/layers/2")
DIFF_IDS = (f"sha256:{'1' * 64}", f"sha256:{'2' * 64}")


def image(*names: str, digests: tuple[str, ...] = ()) -> Image:
    """Make an image with these names."""
    return Image(
        id=ID, digest=f"sha256:{'d' * 64}", names=names, digests=digests, config=ImageConfig(),
        layers=LAYERS, diff_ids=DIFF_IDS, size=1, created_ns=1,
    )  # fmt: skip


def holder(*, running: bool, image_id: str = ID, layers: tuple[str, ...] = LAYERS) -> Holder:
    """Make a container."""
    return Holder(id="c" * 64, name="web", image_id=image_id, layers=layers, running=running)


A, B, OTHER = "docker.io/library/a:1", "docker.io/library/a:2", "docker.io/me/b:1"
PINNED = f"docker.io/library/a@sha256:{'d' * 64}"


def test_one_of_several_names_goes_alone() -> None:
    """The image stays as long as it has a name, even while a container uses it."""
    assert plan_removal(image(A, B), A, False, [holder(running=True)]) == Plan((A,), False)


def test_the_last_name_takes_the_image_along() -> None:
    """And with the last tag go the digests of the same repository."""
    assert plan_removal(image(A), A, False, []) == Plan((A,), True)
    assert plan_removal(image(A, digests=(PINNED,)), A, False, []) == Plan((A, PINNED), True)


@pytest.mark.parametrize("running", [True, False])
def test_the_last_name_of_a_used_image_needs_force(running: bool) -> None:
    """The error names image and container and says what to do."""
    with pytest.raises(ImageInUse, match=r"a:1: container web \(cccccccccccc\) uses .* use -f"):
        plan_removal(image(A), A, False, [holder(running=running)])


def test_force_untags_but_keeps_what_runs() -> None:
    """A running container keeps its image, nameless; a stopped one only its layers."""
    assert plan_removal(image(A), A, True, [holder(running=True)]) == Plan((A,), False)
    assert plan_removal(image(A), A, True, [holder(running=False)]) == Plan((A,), True)


def test_an_id_takes_all_names_of_one_repository() -> None:
    """Names in several repositories need force."""
    assert plan_removal(image(A, B), "", False, []) == Plan((A, B), True)
    with pytest.raises(Conflict, match="several repositories"):
        plan_removal(image(A, OTHER), "", False, [])
    assert plan_removal(image(A, OTHER), "", True, []) == Plan((A, OTHER), True)


def test_an_id_in_use() -> None:
    """Force helps against a stopped container, nothing against a running one."""
    with pytest.raises(ImageInUse, match="use -f"):
        plan_removal(image(A), "", False, [holder(running=False)])
    with pytest.raises(ImageInUse, match="stop and remove it first"):
        plan_removal(image(A), "", True, [holder(running=True)])
    assert plan_removal(image(A), "", True, [holder(running=False)]).delete


def test_containers_of_other_images_do_not_matter() -> None:
    """Only who uses this image can hold it."""
    other = holder(running=True, image_id=f"sha256:{'b' * 64}")

    assert plan_removal(image(A), "", False, [other]).delete


def test_layers_that_others_need_are_not_listed() -> None:
    """Deleted lines: the image, then its own layers, topmost first."""
    lone = deletions(image(A), [], [])
    shared = deletions(image(A), [], [holder(running=False, layers=LAYERS[:1])])

    assert lone[0].subject == ID
    assert lone[-1].subject == DIFF_IDS[0]
    assert len(lone) == 3
    assert len(shared) == 2
