"""Verification of a whole store: every file against the digest in its artifact's record."""

from __future__ import annotations

from dataclasses import dataclass, field

from hoser_kd.pipeline.store import Artifact, Store


@dataclass
class Verification:
    """What has been read, and what is damaged."""

    num_artifacts: int = 0
    num_files: int = 0
    num_bytes: int = 0
    without_digests: int = 0
    """Artifacts from before digests; their files are compared by size."""
    damaged: list[str] = field(default_factory=list)
    """A sentence per damaged artifact: its name in the store, what is wrong, and how to fix it."""

    @property
    def summary(self) -> str:
        """Return the counts as one line."""
        old = f", {self.without_digests} of them from before digests (sizes compared)" if self.without_digests else ""
        return (
            f"{self.num_artifacts} artifacts{old}, {self.num_files} files, {self.num_bytes / 2**20:.1f} MiB; "
            f"damaged: {len(self.damaged) or 'none'}"
        )


def verify_store(store: Store) -> Verification:
    """Read every file of a store. Raises StoreError if there is no store at its root, or it cannot be reached."""
    store.require_existing()
    result = Verification()
    for name, artifact in store.artifacts():
        result.num_artifacts += 1
        if not isinstance(artifact, Artifact):
            result.damaged.append(str(artifact))
            continue
        result.num_files += len(artifact.files)
        result.num_bytes += sum(artifact.files.values())
        result.without_digests += bool(artifact.files) and not artifact.digests
        if problem := store.verify(name, artifact):
            fix = f"Materialize {artifact.stage} again for {artifact.city}; the damaged copy is replaced."
            result.damaged.append(f"{name}: {problem}. {fix}")
    return result
