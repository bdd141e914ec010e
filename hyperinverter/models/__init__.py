"""The networks. They know no files: weights come from `hyperinverter.pretrained`."""
