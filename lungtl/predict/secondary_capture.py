"""The page of a series as a Multi-frame True Color Secondary Capture image: a frame for each sheet."""

from __future__ import annotations

from datetime import datetime

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MultiFrameTrueColorSecondaryCaptureImageStorage, generate_uid

from lungtl.predict.result import SeriesResult
from lungtl.predict.study import Study
from lungtl.settings.version import VERSION

SERIES_NUMBER = 9002
"""See `lungtl.predict.structured_report`."""
PAGE_NUMBER_VECTOR = 0x00182001


def secondary_capture(result: SeriesResult, study: Study) -> Dataset:
    """Build the image from `result.pages`, of which there is at least one; its key slices are the source images."""
    pages = np.stack(result.pages)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(None)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in study.identification.items():
        setattr(image, keyword, value)
    now = datetime.now()
    date, time = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    image.update(_attributes(date, time))
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.NumberOfFrames, image.Rows, image.Columns = pages.shape[:3]
    image.FrameIncrementPointer = PAGE_NUMBER_VECTOR
    image.PageNumberVector = list(range(1, len(pages) + 1))
    image.SourceImageSequence = [_reference(key.sop_instance_uid, study) for key in result.key_slices]
    content = np.ascontiguousarray(pages, dtype=np.uint8).tobytes()
    image.PixelData = content + b"\0" * (len(content) % 2)
    return image


def _attributes(date: str, time: str) -> Dataset:
    """Whatever the page shows."""
    attributes = Dataset()
    attributes.InstanceCreationDate = attributes.ContentDate = attributes.DateOfSecondaryCapture = date
    attributes.InstanceCreationTime = attributes.ContentTime = attributes.TimeOfSecondaryCapture = time
    attributes.SeriesInstanceUID = generate_uid(None)
    attributes.SeriesNumber, attributes.InstanceNumber = SERIES_NUMBER, 1
    attributes.SeriesDescription = "lungtl page (research only)"
    attributes.Modality, attributes.ConversionType = "OT", "WSD"
    attributes.ImageType = ["DERIVED", "SECONDARY"]
    attributes.BodyPartExamined, attributes.PatientOrientation = "CHEST", []  # neither left nor right: no Laterality
    attributes.BurnedInAnnotation = "NO"
    attributes.Manufacturer = attributes.ManufacturerModelName = "lungtl"
    attributes.SoftwareVersions = VERSION
    attributes.SecondaryCaptureDeviceManufacturer = "lungtl"
    attributes.SecondaryCaptureDeviceSoftwareVersions = VERSION
    attributes.SamplesPerPixel, attributes.PhotometricInterpretation, attributes.PlanarConfiguration = 3, "RGB", 0
    attributes.BitsAllocated, attributes.BitsStored, attributes.HighBit, attributes.PixelRepresentation = 8, 8, 7, 0
    return attributes


def _reference(sop_uid: str, study: Study) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = study.classes[sop_uid], sop_uid
    return item
