// Stands for @grafana/runtime, of which the Prometheus code asks this for exemplars only.
export const getDataSourceSrv = () => ({ getInstanceSettings: () => undefined });
