"""Raw files outside the store: observed, never written. Their data versions are digests of their content.

They are the first assets of the network group; the job `prepare_city` observes them before it reads them.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import dagster as dg

from assets.partitions import city_partitions
from hoser_kd.common.errors import HoserKdError

RAW: dict[str, tuple[str, ...]] = {
    "raw_roads": ("roadmap.geo", "roadmap.rel", "road_network_partition", "zone_trans_mat.npy"),
    "raw_trips": ("train.csv", "val.csv", "test.csv"),
}
"""Names of the raw files, by the asset that represents them."""

_DESCRIPTIONS = {
    "raw_roads": "`roadmap.geo` and `roadmap.rel`, and the zones if the data set ships them, outside the store; for "
    "raw data, the OpenStreetMap extract.",
    "raw_trips": "`train.csv`, `val.csv` and `test.csv`, outside the store; for raw data, the GPS points.",
}
_VERSION = (
    "Observed, never written. The data version is a digest of the content; for a synthetic or downloaded city, of the "
    "settings that define it."
)

# the stubs of this beta decorator leave its result untyped
_observable = cast(
    "Callable[[Callable[..., Any]], dg.AssetsDefinition]",
    dg.multi_observable_source_asset(
        name="observe_raw_files",
        specs=[
            dg.AssetSpec(
                name,
                group_name="network",
                description=f"{description} {_VERSION}",
                kinds={"csv"},
                partitions_def=city_partitions,
            )
            for name, description in _DESCRIPTIONS.items()
        ],
        partitions_def=city_partitions,
        can_subset=True,
        required_resource_keys={"pipeline"},
    ),
)


@_observable
def raw_files(context: dg.AssetExecutionContext) -> Iterator[dg.ObserveResult]:
    """Compute the data versions of a city's raw files."""
    from hoser_kd.network.sources import kind_of, raw_version

    try:
        source = context.resources.pipeline.config(context.partition_key).source
        for key in sorted(context.selected_asset_keys):
            names = RAW[key.path[-1]]
            files = [
                dg.TableRecord({"file": str(path), "mib": round(path.stat().st_size / 2**20, 3)})
                for path in kind_of(source).raw_files_for(source, names)
            ]
            metadata = {"files": dg.MetadataValue.table(files)} if files else kind_of(source).describe(source)
            version = dg.DataVersion(raw_version(source, names)[:16])
            yield dg.ObserveResult(key, data_version=version, metadata=metadata)
    except HoserKdError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
