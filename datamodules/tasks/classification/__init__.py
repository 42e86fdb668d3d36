"""Classification of documents: IMDB, Hyperpartisan, and files of labelled texts."""
