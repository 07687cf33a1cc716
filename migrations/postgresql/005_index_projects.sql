CREATE UNIQUE INDEX CONCURRENTLY projects_slug_key ON projects (slug);
CREATE INDEX CONCURRENTLY projects_public_idx ON projects (created_at DESC) WHERE visibility = 'public';
