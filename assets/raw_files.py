"""Raw files: what lies outside the store, observed and never written; their versions are digests of their content.

They stand at the head of the network group; `prepare_city` observes them first.
"""

from collections.abc import Iterator

import dagster as dg

from assets.partitions import city_partitions
from hoser_kd.common.errors import HoserKdError

RAW: dict[str, tuple[str, ...]] = {
    "raw_roads": ("roadmap.geo", "roadmap.rel", "road_network_partition", "zone_trans_mat.npy"),
    "raw_trips": ("train.csv", "val.csv", "test.csv"),
}
"""The raw files by the asset that stands for them."""

_DESCRIPTIONS = {
    "raw_roads": "`roadmap.geo` and `roadmap.rel`, and the zones where the data set ships them, as they lie outside.",
    "raw_trips": "`train.csv`, `val.csv` and `test.csv`, as they lie outside.",
}
_VERSION = (
    "Observed, never written: the version is a digest of the content; for a made or downloaded city, of what "
    "says how to make or where to find it."
)


@dg.multi_observable_source_asset(
    name="observe_raw_files",
    specs=[
        dg.AssetSpec(
            name, group_name="network", description=f"{said} {_VERSION}", kinds={"csv"}, partitions_def=city_partitions
        )
        for name, said in _DESCRIPTIONS.items()
    ],
    partitions_def=city_partitions,
    can_subset=True,
    required_resource_keys={"pipeline"},
)
def raw_files(context: dg.AssetExecutionContext) -> Iterator[dg.ObserveResult]:
    """Digest the raw files of a city."""
    from hoser_kd.network.sources import kind_of, raw_files_of, raw_version

    try:
        source = context.resources.pipeline.config(context.partition_key).source
        for key in sorted(context.selected_asset_keys):
            names = RAW[key.path[-1]]
            files = [
                dg.TableRecord({"file": str(path), "mib": round(path.stat().st_size / 2**20, 3)})
                for path in raw_files_of(source)
                if path.name in names
            ]
            shown = {"files": dg.MetadataValue.table(files)} if files else kind_of(source).describe(source)
            yield dg.ObserveResult(key, data_version=dg.DataVersion(raw_version(source, names)[:16]), metadata=shown)
    except HoserKdError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
