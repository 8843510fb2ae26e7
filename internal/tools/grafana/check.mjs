// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Checks dashboards against the types that Grafana publishes as @grafana/schema: the dashboard, and the options of each panel
// by its kind. What the types do not know is an error.
//
//   npm ci && node check.mjs DASHBOARD.json...
import { cpSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import ts from 'typescript';

// JSON has the values of enumerations, and the types accept only their names: make each enumeration the union of its values.
const published = createRequire(import.meta.url).resolve('@grafana/schema').replace(/dist\/.*/, 'dist/types');
const types = join(import.meta.dirname, 'node_modules/.checked');
rmSync(types, { recursive: true, force: true });
cpSync(published, types, { recursive: true });
for (const file of readdirSync(types, { recursive: true }).filter((name) => name.endsWith('.d.ts'))) {
	const path = join(types, file);
	const depth = file.split('/').length - 1;
	const text = readFileSync(path, 'utf8')
		.replace(/declare enum (\w+) \{([^}]*)\}/g, (_, name, body) => {
			const members = [...body.replace(/\/\*.*?\*\//gs, '').matchAll(/(\w+) = ([^,\n]+)/g)].map((m) => m[2]);
			return `type ${name} = ${members.join(' | ')};`;
		})
		.replace("from '@grafana/schema'", `from '${'../'.repeat(depth)}index'`);
	writeFileSync(path, text);
}

const panelTypes = { timeseries: 'timeseries', stat: 'stat', table: 'table', logs: 'logs', 'state-timeline': 'statetimeline' };
let source = `import type { Dashboard, Panel, RowPanel } from './raw/dashboard/x/types.gen';\n`;
for (const [kind, directory] of Object.entries(panelTypes)) {
	source += `import type * as ${directory} from './raw/composable/${directory}/panelcfg/x/types.gen';\n`;
}
process.argv.slice(2).forEach((file, i) => {
	const { panels, ...dashboard } = JSON.parse(readFileSync(file, 'utf8'));
	source += `export const d${i}: Dashboard = ${JSON.stringify(dashboard)}; // ${file}\n`;
	panels.forEach((panel, j) => {
		source += `export const d${i}p${j}: ${panel.type === 'row' ? 'RowPanel' : 'Panel'} = ${JSON.stringify(panel)}; // ${file}: ${panel.title}\n`;
		if (panel.options) {
			source += `export const d${i}o${j}: ${panelTypes[panel.type]}.Options = ${JSON.stringify(panel.options)}; // ${file}: ${panel.title}\n`;
		}
		if (panel.type === 'timeseries') {
			source += `export const d${i}f${j}: timeseries.FieldConfig = ${JSON.stringify(panel.fieldConfig.defaults.custom)}; // ${file}: ${panel.title}\n`;
		}
	});
});
const entry = join(types, 'dashboards.ts');
writeFileSync(entry, source);

const program = ts.createProgram([entry], { strict: true, noEmit: true, skipLibCheck: true, target: ts.ScriptTarget.ES2022, types: [], module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler });
const problems = ts.getPreEmitDiagnostics(program).filter((d) => d.file?.fileName === entry);
for (const problem of problems) {
	const line = source.split('\n')[problem.file.getLineAndCharacterOfPosition(problem.start).line];
	console.error(`${line.replace(/.*; \/\/ /, '')}: ${ts.flattenDiagnosticMessageText(problem.messageText, '\n')}`);
}
console.log(`${process.argv.length - 2} dashboards, ${problems.length} problems`);
process.exit(problems.length === 0 && process.argv.length > 2 ? 0 : 1);
