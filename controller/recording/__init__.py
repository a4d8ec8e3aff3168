"""The session folder: journal, writer, reader, report, export."""
