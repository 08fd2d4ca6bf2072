"""From other people's tables and folders to clean records: cleaning rules, title parsing, splits, files of records."""
