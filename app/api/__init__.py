"""HTTP and nothing else: routes, schemas, problem documents, access. Decides nothing itself."""
