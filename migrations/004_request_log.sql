-- The log of served requests is a file of its own, requests.sqlite (docs/FORMATS.md): it has another writer than the history, and losing
-- it costs nothing else. Its place here was never used.
DROP TABLE weir_requests;
