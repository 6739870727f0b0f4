// Grafana's own code shows what its pages would: answers of a Prometheus and a dashboard go in on
// stdin, panels with their series, cells, units and links come out on stdout.
//
// What a Grafana server adds is the query itself (tests ask Prometheus for it) and the drawing.

import {
  applyFieldOverrides, createTheme, dataLinksOverrideProcessor, displayNameOverrideProcessor,
  FieldConfigOptionsRegistry, formattedValueToString, getFieldDisplayName,
  getFieldDisplayValuesProxy, getValueFormats, identityOverrideProcessor, standardTransformers,
  standardTransformersRegistry, thresholdsOverrideProcessor, toDataFrame, transformDataFrame,
  unitOverrideProcessor, valueMappingsOverrideProcessor,
} from '@grafana/data';
import { lastValueFrom } from 'rxjs';
import { transformV2 } from './prometheus/dist/esm/result_transformer.mjs';

const PROCESSORS = {
  unit: unitOverrideProcessor, displayName: displayNameOverrideProcessor,
  mappings: valueMappingsOverrideProcessor, thresholds: thresholdsOverrideProcessor,
  links: dataLinksOverrideProcessor,
};

// The options that a field can have; a panel's own (custom.*) as they come.
function registry(panel) {
  const named = ['unit', 'displayName', 'mappings', 'thresholds', 'links', 'min', 'max', 'decimals',
    'noValue', 'color'];
  const custom = panel.fieldConfig.overrides
    .flatMap((one) => one.properties).map((one) => one.id).filter((id) => id.startsWith('custom.'));
  return new FieldConfigOptionsRegistry(() => [...named, ...new Set(custom)].map((id) => ({
    id, path: id.replace('custom.', ''), name: id, isCustom: id.startsWith('custom.'), settings: {},
    process: PROCESSORS[id] ?? identityOverrideProcessor, override: () => null, editor: () => null,
    shouldApply: () => true,
  })));
}

// Frames as Grafana's server makes them of Prometheus' answer: one for each series.
function frames(target, series) {
  return series.map((one) => {
    const points = target.instant ? [one.values.at(-1)] : one.values;
    const legend = (target.legendFormat ?? '').replace(
      /\{\{\s*(\w+)\s*\}\}/g, (_, label) => one.metric[label] ?? '');
    return toDataFrame({
      refId: target.refId, name: legend,
      meta: { type: 'timeseries-multi', custom: { resultType: target.instant ? 'vector' : 'matrix' } },
      fields: [
        { name: 'Time', type: 'time', values: points.map((point) => point[0] * 1000) },
        { name: 'Value', type: 'number', labels: one.metric, values: points.map((p) => Number(p[1])),
          config: legend ? { displayNameFromDS: legend } : {} },
      ],
    });
  });
}

function shown(field, index) {
  return formattedValueToString(field.display(field.values[index]));
}

async function panelOf(panel, answers, variables) {
  const data = panel.targets.flatMap((target) => frames(target, answers[target.refId] ?? []));
  const response = transformV2({ data }, { targets: panel.targets, app: 'dashboard' }, {});
  const transformed = await lastValueFrom(
    transformDataFrame(panel.transformations ?? [], response.data));
  const replaceVariables = (text, scoped) => text.replace(
    /\$\{?(__?[\w.]+|\w+)(?::\w+)?\}?/g, (whole, name) => {
      const [scope, ...rest] = name.split('.');
      if (scope === '__data' && scoped?.__dataContext) {
        return String(getFieldDisplayValuesProxy(scoped.__dataContext.value)[rest[1]] ?? whole);
      }
      return variables[name] ?? whole;
    });
  const fields = applyFieldOverrides({
    data: transformed, fieldConfig: panel.fieldConfig, replaceVariables, theme: createTheme(),
    timeZone: 'utc', fieldConfigRegistry: registry(panel),
  }).flatMap((frame) => frame.fields.map((field) => ({
    name: getFieldDisplayName(field, frame, transformed),
    type: field.type, config: { unit: field.config.unit, custom: field.config.custom ?? {} },
    cells: field.values.map((_, index) => shown(field, index)),
    links: panel.type === 'table' && field.config.links?.length
      ? field.values.map((_, row) => field.getLinks({ valueRowIndex: row })[0].href) : [],
  })));
  return { title: panel.title, type: panel.type, fields };
}

standardTransformersRegistry.setInit(() => [
  standardTransformers.mergeTransformer, standardTransformers.organizeFieldsTransformer,
].map((one) => ({ id: one.id, name: one.name, transformation: one, editor: () => null })));

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const { panels, variables } = JSON.parse(Buffer.concat(chunks).toString());
const units = getValueFormats().flatMap((group) => group.submenu.map((one) => one.value));
const made = [];
for (const { panel, answers } of panels) made.push(await panelOf(panel, answers, variables));
process.stdout.write(JSON.stringify({ units, panels: made }));
