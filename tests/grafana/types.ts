// What the JSON of a dashboard may hold, by Grafana's own types: enums as their values, so that a
// literal of JSON is checked key by key. Type-checked only, with the dashboards appended.

import type { Dashboard, FieldConfigSource, Panel } from '@grafana/schema';
import type * as Bars from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen.d.ts';
import type * as Stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen.d.ts';
import type * as Timeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen.d.ts';
import type * as Table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen.d.ts';
import type * as Series from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen.d.ts';

type Plain<T> = T extends number ? number : T extends string ? `${T}` | T
  : T extends Array<infer U> ? Array<Plain<U>>
  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;

type Config<C> = Omit<FieldConfigSource, 'defaults'>
  & { defaults: Omit<FieldConfigSource['defaults'], 'custom'> & { custom?: Partial<C> } };
type Shown<Type extends string, Options, Custom> = Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'>
  & { type: Type; options?: Partial<Options>; fieldConfig: Config<Custom>; targets: Array<Record<string, unknown>> };
type Empty = Record<string, never>;
export type Known = Plain<
  Shown<'timeseries', Series.Options, Series.FieldConfig>
  | Shown<'stat', Stat.Options, Empty>
  | Shown<'bargauge', Bars.Options, Empty>
  | Shown<'table', Table.Options, Table.FieldConfig>
  | Shown<'state-timeline', Timeline.Options, Timeline.FieldConfig>
>;
export type Heading = { type: 'row'; title: string; id: number; collapsed: boolean; panels: []; gridPos: Plain<Panel['gridPos']> };

// Fields that belong to the datasource of an annotation, and to kinds of variables.
type Annotations = { list?: Array<Plain<NonNullable<NonNullable<Dashboard['annotations']>['list']>[number]> & { expr: string }> };
type Variables = { list: Array<Plain<NonNullable<NonNullable<Dashboard['templating']>['list']>[number]> & { auto?: boolean; auto_count?: number; auto_min?: string }> };
export type Board = Plain<Omit<Dashboard, 'panels' | 'annotations' | 'templating'>>
  & { panels: Array<Known | Heading>; annotations: Annotations; templating: Variables };
