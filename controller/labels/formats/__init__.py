"""Labels in the formats of other programs: out of the store, and back in."""

from controller.labels.formats.exporting import EXPORT_FORMATS, export_labels
from controller.labels.formats.file_readers import IMPORT_FORMATS, ImportOptions
from controller.labels.formats.importing import ImportResult, import_labels

__all__ = [
    "EXPORT_FORMATS",
    "IMPORT_FORMATS",
    "ImportOptions",
    "ImportResult",
    "export_labels",
    "import_labels",
]
