"""The stages: one file, one public function, one verb of the command line each."""
