"""Units of work: begin, commit, retry. One public function is one unit of work."""
