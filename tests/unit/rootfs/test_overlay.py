"""Options of overlayfs as one string, for older kernels."""

from __future__ import annotations

from aruntime.rootfs import overlay


def test_topmost_layer_comes_first() -> None:
    """Layers are given lowest first; overlayfs wants the opposite."""
    found = overlay.option_string(["/low", "/high"], "/up", "/work", ["volatile"])

    first, *rest = found.split(",")
    assert first == "lowerdir=/high:/low"
    assert rest[:2] == ["upperdir=/up", "workdir=/work"]
    assert rest[-1] == "volatile"
    assert "redirect_dir=off" in rest


def test_special_characters_are_escaped() -> None:
    """Separators in directory names are not separators."""
    found = overlay.option_string(["/a:b,c\\d"], "/u:,", "/w,")

    assert found.startswith(r"lowerdir=/a\:b\,c\\d,upperdir=/u:\,,workdir=/w\,,")
