// The suite is used in two places: in its repository, and installed as a package in somebody else's project. How it is called, and where it may leave files, differs.

/** Whether this is an installed package. */
export const isInstalled = import.meta.url.includes('/node_modules/');

/** How `ringbook conform` is called here. */
export const CONFORM = isInstalled ? 'npx ringbook conform' : 'npm run conform --';
