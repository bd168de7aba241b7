"""From token ids to windows: of a text in streams, of padded records, of a text to score."""
