CREATE TABLE decisions (
  id VARCHAR(40) NOT NULL,
  time DATETIME NOT NULL,
  tenant VARCHAR(64) NOT NULL,
  key_id VARCHAR(32) NOT NULL,
  endpoint VARCHAR(64) NOT NULL,
  request_id VARCHAR(80) NOT NULL,
  stream_id VARCHAR(80),
  upstream VARCHAR(64),
  model VARCHAR(200),
  guard VARCHAR(200) NOT NULL,
  policy VARCHAR(200) NOT NULL,
  policy_version VARCHAR(200) NOT NULL,
  policy_digest VARCHAR(16) NOT NULL,
  action VARCHAR(16) NOT NULL,
  side VARCHAR(16),
  risk_level VARCHAR(16),
  category VARCHAR(64),
  position INTEGER,
  error VARCHAR(64),
  prompt_risk_level VARCHAR(16),
  prompt_category VARCHAR(64),
  prompt_unsafe FLOAT,
  prompt_controversial FLOAT,
  response_risk_level VARCHAR(16),
  response_category VARCHAR(64),
  response_unsafe FLOAT,
  response_controversial FLOAT,
  refusal BOOLEAN,
  flagged_start INTEGER,
  flagged_end INTEGER,
  num_tokens INTEGER NOT NULL,
  prompt_chars INTEGER,
  response_chars INTEGER,
  prompt_hash VARCHAR(64),
  response_hash VARCHAR(64),
  latency_ms FLOAT NOT NULL,
  prompt_text TEXT,
  response_text TEXT,
  text_until DATETIME,
  details JSON,
  PRIMARY KEY (id)
);
CREATE INDEX ix_decisions_request_id ON decisions (request_id);
CREATE INDEX ix_decisions_tenant ON decisions (tenant);
CREATE INDEX ix_decisions_time ON decisions (time);
CREATE INDEX ix_decisions_text_until ON decisions (text_until);
CREATE TABLE api_keys (
  id VARCHAR(32) NOT NULL,
  hash VARCHAR(64) NOT NULL,
  tenant VARCHAR(64) NOT NULL,
  name VARCHAR(200) NOT NULL,
  policy VARCHAR(200),
  other_policies JSON NOT NULL,
  upstreams JSON,
  is_admin BOOLEAN NOT NULL,
  requests_per_minute INTEGER,
  max_concurrent INTEGER,
  created_at DATETIME NOT NULL,
  expires_at DATETIME,
  revoked_at DATETIME,
  PRIMARY KEY (id)
);
CREATE INDEX ix_api_keys_tenant ON api_keys (tenant);
CREATE TABLE usage (
  key_id VARCHAR(32) NOT NULL,
  day VARCHAR(10) NOT NULL,
  tenant VARCHAR(64) NOT NULL,
  num_decisions BIGINT NOT NULL,
  num_stopped BIGINT NOT NULL,
  num_tokens BIGINT NOT NULL,
  num_chars BIGINT NOT NULL,
  PRIMARY KEY (key_id, day)
);
CREATE TABLE policy_versions (
  digest VARCHAR(16) NOT NULL,
  name VARCHAR(200) NOT NULL,
  version VARCHAR(200) NOT NULL,
  first_used DATETIME NOT NULL,
  body JSON NOT NULL,
  PRIMARY KEY (digest)
);
CREATE INDEX ix_policy_versions_name ON policy_versions (name);
