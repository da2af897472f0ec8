"""Synthetic chest CTs around real LIDC annotations, written as DICOM series.

They replace the 133 GB of LIDC-IDRI when trying, testing and timing lungtl. Geometry, identifiers and nodules are from
LIDC; every voxel is synthetic, so no result computed on it says anything about patients.
"""

from lungtl.sources.phantom.choose import PhantomRecipe, ScanPlan, choose_scans
from lungtl.sources.phantom.render import render
from lungtl.sources.phantom.write import write_phantom

__all__ = ["PhantomRecipe", "ScanPlan", "choose_scans", "render", "write_phantom"]
