"""Targets that read volumes, embeddings of tiles, and Parquet files."""

import gzip
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
from golden import DATA

from mobilesam.volumes.case import CaseError
from mobilesam.volumes.reading import open_case
from mobilesam.volumes.window import FileWindow, Percentiles

from .mutation import mutate, with_zip_checksums
from .target import Case, Maker, Target, from_files

VOLUME = np.random.default_rng(0).integers(0, 200, (4, 5, 6), np.uint8)


def read_case(path: Path) -> None:
    case = open_case(path)
    assert case.image.dtype == np.uint8 and case.image.size


def read_percentiles(path: Path) -> None:
    assert open_case(path, Percentiles()).image.dtype == np.uint8


def read_file_window(path: Path) -> None:
    assert open_case(path, FileWindow()).image.dtype == np.uint8


def npz_files(_: Path) -> list[tuple[str, bytes]]:
    files = []
    for save in (np.savez, np.savez_compressed):
        for arrays in (
            {"imgs": VOLUME, "boxes": np.array([[1, 1, 0, 4, 5, 3]]), "spacing": np.ones(3)},
            {"imgs": VOLUME[0], "boxes": np.array([[0.5, 1, 4, 5]])},
            {"imgs": VOLUME.astype(np.float32)},
        ):
            file = io.BytesIO()
            save(file, **arrays)
            files.append((".npz", file.getvalue()))
    return files


def nifti_files(folder: Path) -> list[tuple[str, bytes]]:
    import nibabel

    files, path = [], folder / "made.nii"
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        for dtype in (np.int16, np.uint8, np.float32):
            nibabel.save(kind(VOLUME.astype(dtype), np.eye(4)), path)
            files.append((".nii", path.read_bytes()))
    return files + [(".nii.gz", gzip.compress(data, mtime=0)) for _, data in files[::3]]


def finish_gzip(data: bytes, rng: Random) -> bytes:
    return gzip.compress(data, mtime=0) if rng.random() < 0.2 else data


def finish_zip(data: bytes, rng: Random) -> bytes:
    return with_zip_checksums(data) if rng.random() < 0.8 else data


def dicom_files(_: Path) -> list[tuple[str, bytes]]:
    """A CT slice, and an image of several frames."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

    files = []
    for storage, frames in ((CTImageStorage, 1), (EnhancedCTImageStorage, 4)):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = storage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = "1.2.3.4"
        dataset, pixels = FileDataset(None, {}, file_meta=meta, preamble=bytes(128)), VOLUME[:frames].astype(np.uint16)
        values = {
            "SeriesInstanceUID": "1.2.3", "SeriesNumber": 4, "InstanceNumber": 1, "Rows": 5, "Columns": 6,
            "ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [0.5, 0.5],
            "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 16,
            "HighBit": 15, "PixelRepresentation": 0, "RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40,
            "WindowWidth": 400, "SpacingBetweenSlices": 2,
        }  # fmt: skip
        if frames > 1:
            values["NumberOfFrames"] = frames
        for name, value in values.items():
            setattr(dataset, name, value)
        dataset.add_new("PixelData", "OW", pixels.tobytes())
        file = io.BytesIO()
        dataset.save_as(file)
        files.append((".dcm", file.getvalue()))
    return files


def start_tiles(folder: Path) -> Maker:
    """A folder of micro-sam's embeddings, in which one file is damaged."""
    from mobilesam.tiles.micro_sam import SavedTiles

    with zipfile.ZipFile(DATA / "micro_sam.zip") as archive:
        archive.extractall(folder)
    for name in ("image", "tiled", "stack"):
        path = folder / f"{name}.zarr" / "zarr.json"
        path.write_text(path.read_text().replace('"vit_t_lm"', '"vit_t"').replace('"vit_b"', '"vit_t"'))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    headers = [path for path in files if path.name == "zarr.json"]
    contents = [path.read_bytes() for path in headers]

    def make(rng: Random) -> Case:
        path = rng.choice(headers if rng.random() < 0.8 else files)
        valid = path.read_bytes()
        data, root = mutate(valid, contents, rng), folder / path.relative_to(folder).parts[0]

        def run() -> None:
            path.write_bytes(data)
            try:
                tiles = SavedTiles(root, (150, 130))
                features = tiles.features(0, None if tiles.slices is None else 0)
                assert features.shape == (64, 64, 256)
            finally:
                path.write_bytes(valid)

        return Case(run, f"{path.relative_to(folder)}\n".encode() + data)

    return make


def parquet_files(folder: Path) -> Sequence[tuple[str, bytes]]:
    from mobilesam.batch import table

    annotation = {
        "id": 1, "segmentation": {"size": [2, 3], "counts": "06"}, "bbox": [0.0, 0.0, 2.0, 1.0], "area": 6,
        "predicted_iou": 0.9, "stability_score": None, "point_coords": [[1.0, 0.5]], "crop_box": [0.0, 0.0, 3.0, 2.0],
    }  # fmt: skip
    row = {
        "image_id": 1,
        "file_name": "a",
        "path": "/a",
        "width": 3,
        "height": 2,
        "annotations": [annotation],
        "error": None,
    }
    path = table.write(folder, {name: [row[name]] for name in table.schema().names})
    data = path.read_bytes()
    path.unlink()
    return [(".parquet", data)]


def read_parquet(path: Path) -> None:
    from mobilesam.batch import table

    folder = path.parent / "table"
    folder.mkdir(exist_ok=True)
    (folder / "part-0.parquet").write_bytes(path.read_bytes())
    for photo in table.read(folder):
        assert "path" in photo


EXPECTED = (CaseError, OSError)
TARGETS = (
    Target("npz", 2000, from_files(npz_files, [read_case, read_percentiles], finish=finish_zip), EXPECTED),
    Target("nifti", 1500, from_files(nifti_files, [read_case], finish=finish_gzip), EXPECTED, ("nibabel",)),
    Target(
        "dicom",
        1500,
        from_files(dicom_files, [read_case, read_file_window]),
        EXPECTED,
        ("nibabel", "pydicom"),
    ),
    Target("tiles", 500, start_tiles, (OSError, ValueError), ("zarr",)),
    Target("parquet", 800, from_files(parquet_files, [read_parquet]), (OSError, ValueError), ("pyarrow",), memory=16),
)
