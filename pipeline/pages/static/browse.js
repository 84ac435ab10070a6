// What the pages of `vilbert browse` do beyond links and forms, which work without scripts.
import { loadParts } from './found.js';
import { explainImages } from './images.js';
import { suggestNames } from './names.js';
import { listenToKeys } from './keys.js';
import { linkRegions } from './regions.js';

explainImages();
suggestNames();
listenToKeys();
linkRegions();
loadParts(explainImages);
