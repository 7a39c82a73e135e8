"""Checkpoints of a training run, of which a kill at any moment leaves one to go on from.

mmengine's hook removes the outdated checkpoint, then writes the next one in place, then names it in
``last_checkpoint``. A run that keeps one checkpoint and is killed in between has none; a run that keeps several has a
file that ends early, or a name without a file.
"""

import os
import zipfile
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner, find_latest_checkpoint

from adapters.files import atomic_write
from adapters.registry import register_hook

#: Name of :class:`AtomicFileBackend` among mmengine's backends.
ATOMIC_FILES = "adapters_atomic_files"


@register_backend(ATOMIC_FILES)
class AtomicFileBackend(LocalBackend):
    """mmengine's local files, each written under a temporary name, forced to disk and renamed."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes."""
        with atomic_write(Path(filepath)) as partial, partial.open("wb") as file:
            file.write(obj)
            file.flush()
            os.fsync(file.fileno())


@register_hook
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` that removes a checkpoint only once the next one is complete and named.

    It takes the same arguments.
    """

    backend_args: dict[str, Any] | None

    def before_train(self, runner: Runner) -> None:
        """Choose the backend: local files become atomic ones; object stores write atomically by themselves."""
        if self.file_client_args is None:
            backend = get_file_backend(self.out_dir or runner.work_dir, backend_args=self.backend_args)
            if type(backend) is LocalBackend:
                self.backend_args = dict(backend=ATOMIC_FILES)
        super().before_train(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        outdated = None
        full = self.max_keep_ckpts > 0 and len(self.keep_ckpt_ids) == self.max_keep_ckpts
        if full and step not in self.keep_ckpt_ids:
            # Forgotten before, so that mmengine sees room and removes nothing.
            outdated = self.keep_ckpt_ids.popleft()
        super()._save_checkpoint_with_step(runner, step, meta)
        if outdated is not None and is_main_process():
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(outdated))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):  # a folder, as DeepSpeed writes it
                self.file_backend.rmtree(path)


def use_atomic_checkpoints(cfg: Config) -> None:
    """Put :class:`AtomicCheckpointHook` in the place of mmengine's own hook, where the config has that or none."""
    if "checkpoint" not in cfg.get("default_hooks", {}):
        cfg.merge_from_dict({"default_hooks.checkpoint": dict(type="CheckpointHook")})
    hook = cfg.default_hooks.checkpoint
    if hook is not None and hook.type in ("CheckpointHook", "mmengine.CheckpointHook", CheckpointHook):
        hook.type = AtomicCheckpointHook.__name__


def latest_checkpoint(work_dir: str) -> str | None:
    """Find the last complete checkpoint of a run, also where its work directory has moved or its end was sudden.

    That is the one that ``last_checkpoint`` names, or else the newest in the work directory.

    Raises:
        ValueError: ``last_checkpoint`` names one, and there is none at all.
    """
    recorded = find_latest_checkpoint(work_dir) or ""
    named = [Path(recorded), Path(work_dir, Path(recorded).name)] if recorded else []
    others = [path for kind in ("iter", "epoch") for path in Path(work_dir).glob(f"{kind}_*.pth")]
    for path in (*named, *sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)):
        # A folder is DeepSpeed's. torch's files are zips, which an index ends.
        if path.is_dir() or zipfile.is_zipfile(path):
            return str(path)
    if recorded:
        raise ValueError(
            f"{Path(work_dir, 'last_checkpoint')} names {recorded}, which does not exist or is incomplete, and there "
            "is no other. Give a checkpoint with --resume PATH, or remove that file to start from the beginning."
        )
    return None
