"""Registration on mmengine's root, seen from mmdet and mmseg alike, and Python use without mmengine."""

import runpy
import subprocess
import sys

import mmdet.registry
import mmengine.registry
import mmseg.registry
import pytest
from zoo import TOKENS

import adapters
from adapters import registry


@pytest.mark.parametrize("models", [mmengine.registry.MODELS, mmdet.registry.MODELS, mmseg.registry.MODELS])
def test_every_scope_sees_what_is_registered(models: mmengine.registry.Registry) -> None:
    names = (
        "TimmAdapter",
        "TwinsAdapter",
        "LevelBridge",
        "LevelBatchNorm",
        "LevelLayerNorm",
        "SimpleFeaturePyramid",
        "TapPyramid",
    )
    for name in names:
        assert models.get(name) is getattr(adapters, name)


@pytest.mark.parametrize(
    ("register", "root"),
    [
        (registry.register_model, mmengine.registry.MODELS),
        (registry.register_hook, mmengine.registry.HOOKS),
        (registry.register_transform, mmengine.registry.TRANSFORMS),
        (registry.register_optim_wrapper, mmengine.registry.OPTIM_WRAPPERS),
        (registry.register_optim_wrapper_constructor, mmengine.registry.OPTIM_WRAPPER_CONSTRUCTORS),
    ],
)
def test_a_class_is_registered_under_its_name_and_handed_back(
    register: object, root: mmengine.registry.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root, "_module_dict", dict(root.module_dict))

    class OfThisTest:
        """A class of this test."""

    assert register(OfThisTest) is OfThisTest
    assert root.get("OfThisTest") is OfThisTest
    with pytest.raises(KeyError, match="already registered"):
        register(OfThisTest)


def test_without_mmengine_python_use_works_and_the_rest_says_what_to_install() -> None:
    model = f"'vit_small_patch16_224', trunk={TOKENS}, pyramid={{'type': 'TapPyramid'}}"
    script = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'mmengine':\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import adapters, torch\n"
        f"maps = adapters.create_adapter({model})(torch.zeros(1, 3, 40, 40))\n"
        "assert maps[0].shape == (1, 48, 10, 10)\n"
        "from adapters.registry import require_mmengine\n"
        "try:\n    require_mmengine('tools/train.py')\n"
        "except ModuleNotFoundError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "tools/train.py needs mmengine, which is not installed" in done.stdout
    assert 'pip install "dense-adapters[openmmlab]"' in done.stdout


def test_an_mmengine_that_lacks_a_part_of_its_own_is_not_taken_for_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmengine.registry", None)
    with pytest.raises(ModuleNotFoundError, match=r"mmengine\.registry"):
        runpy.run_path(registry.__file__)


def test_with_mmengine_nothing_is_asked_for() -> None:
    registry.require_mmengine("a test")
